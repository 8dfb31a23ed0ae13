from pytest_h2o.bench.adapter import BenchAdapter as BenchAdapter
from pytest_h2o.bench.rows import BenchRow as BenchRow
from pytest_h2o.bench.rows import Row as Row
from pytest_h2o.codecs.base import Codec as Codec
from pytest_h2o.codecs.base import Rope as Rope
from pytest_h2o.codecs.base import SideInfo as SideInfo
from pytest_h2o.codecs.base import Stream as Stream
from pytest_h2o.codecs.base import Words as Words
from pytest_h2o.codecs.planes import join_planes as join_planes
from pytest_h2o.codecs.planes import split_planes as split_planes
from pytest_h2o.codecs.registry import get_codec as get_codec
from pytest_h2o.codecs.registry import register as register
from pytest_h2o.errors import BenchError as BenchError
from pytest_h2o.errors import CodecError as CodecError
from pytest_h2o.errors import DumpError as DumpError
from pytest_h2o.errors import H2OError as H2OError
from pytest_h2o.errors import PresetError as PresetError
from pytest_h2o.errors import StoreError as StoreError
from pytest_h2o.errors import TableError as TableError
from pytest_h2o.errors import UsageError as UsageError
from pytest_h2o.gate.metrics import Metric as Metric
from pytest_h2o.gate.metrics import RowMetric as RowMetric
from pytest_h2o.inputs.options import Range as Range
from pytest_h2o.run.journal import ReportSection as ReportSection
from pytest_h2o.run.journal import SectionTable as SectionTable

__version__: str
