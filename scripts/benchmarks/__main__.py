"""Compare the handlers with what people run today: full-size models of random weights, one run."""

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks.audio import benchmark_audio
from benchmarks.beam import benchmark_beam
from benchmarks.cluster import benchmark_cluster
from benchmarks.emformer import benchmark_emformer
from benchmarks.gateway import benchmark_gateway
from benchmarks.growth import benchmark_growth
from benchmarks.joining import benchmark_joining
from benchmarks.live import benchmark_live
from benchmarks.lookup import benchmark_lookup
from benchmarks.peers import benchmark_peers
from benchmarks.proxies import benchmark_proxies
from benchmarks.speakers import benchmark_speakers
from benchmarks.text import benchmark_text
from benchmarks.wav2vec2 import benchmark_wav2vec2

# Each is given the number of threads, and whether to be long.
BENCHMARKS: dict[str, Callable[[int, bool], None]] = {
    "live": benchmark_live,
    "wav2vec2": benchmark_wav2vec2,
    "beam": benchmark_beam,
    "audio": benchmark_audio,
    "speakers": benchmark_speakers,
    "emformer": benchmark_emformer,
    "text": benchmark_text,
    "joining": benchmark_joining,
    "lookup": benchmark_lookup,
    "peers": benchmark_peers,
    "gateway": benchmark_gateway,
    "cluster": benchmark_cluster,
    "proxies": benchmark_proxies,
    "growth": benchmark_growth,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(BENCHMARKS))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each side")
    parser.add_argument("--long", action="store_true", help="also an hour of audio (minutes)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.models) - set(BENCHMARKS))
    if unknown:
        parser.error(f"expected models among {', '.join(BENCHMARKS)}; got {', '.join(unknown)}")
    for name in options.models or BENCHMARKS:
        BENCHMARKS[name](options.threads, options.long)
    return 0


if __name__ == "__main__":
    sys.exit(main())
