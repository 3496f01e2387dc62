"""How pictures are written: texts of any script, as they are, and without a word about them."""

from functools import cache
from typing import Any

# matplotlib's own first; then what machines have for other scripts, of which one font each is
# enough. No colour fonts, which matplotlib cannot draw.
FIRST = "DejaVu Sans"
OTHERS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Sans CJK KR"),
    *("Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Noto Sans TC"),
    *("Source Han Sans SC", "Source Han Sans", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Droid Sans Fallback", "IPAexGothic", "NanumGothic", "Unifont", "Arial Unicode MS"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Malgun Gothic"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali"),
    *("Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Thai", "Noto Sans Ethiopic"),
    *("Noto Sans Georgian", "Noto Sans Armenian", "Noto Sans Khmer", "Noto Sans Symbols2"),
    *("FreeSans", "FreeSerif", "Lohit Devanagari", "Garuda", "Kohinoor Devanagari", "Thonburi"),
    *("Noto Emoji", "Symbola"),
)
# matplotlib's own, too: a box for every character there is. Without it among the fonts a warning
# names the characters that no font has.
BOXES = "Last Resort High-Efficiency"


@cache
def text_style() -> dict[str, Any]:
    """Return how matplotlib draws what users said: no formulas, and a box at least for all of it.

    A character is of the first font that has it, of those on this machine.
    """
    # Here, because it takes half a second that no other request needs.
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    family = [FIRST, *(name for name in OTHERS if name in there), BOXES]
    return {"family": family, "parse_math": False}
