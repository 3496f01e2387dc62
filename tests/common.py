"""What tests of several kinds name."""

from collections.abc import Callable

from build_archives import ROOT
from local_serving import LocalModel

EXAMPLES = ROOT / "examples"
START_TIMEOUT_S = 300.0
LoadModel = Callable[[str], LocalModel]
