"""Codecs measured side by side on a dump, beside other compressors."""
