"""Rows predicted from earlier rows, turned to their position: the parts of ``rowref``."""
