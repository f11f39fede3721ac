"""Building blocks of HTML reports: pure functions that return HTML, and `document`, which joins them into one file.

The file is self-contained: it includes style and pictures, loads nothing and runs no scripts. All text is escaped.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escape_markup
from math import ceil, floor, log10

import numpy as np

# Of larger numbers, and on a logarithmic axis of smaller ones than the inverse, the ends of an axis might overflow.
_FAR = 1e270

# Control characters but tabs and line breaks, surrogates, and marks that change the direction of the text around them.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

_STYLE = """
:root {
  --paper: #fdfdfc; --panel: #f4f5f5; --ink: #1b2126; --quiet: #59636c; --rule: #dcdfe1; --accent: #20608f;
  --c0: #20608f; --c1: #b8501f; --c2: #2f7d55; --c3: #7a4f9e; --c4: #8a6a00; --c5: #59636c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --panel: #1e2327; --ink: #e3e6e8; --quiet: #9aa5ad; --rule: #333a40; --accent: #78b2dc;
    --c0: #78b2dc; --c1: #ec9463; --c2: #74c397; --c3: #bd9be0; --c4: #d8b54a; --c5: #9aa5ad;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 72rem; padding: 3rem clamp(1rem, 4vw, 3rem) 5rem;
  background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { margin: 0; font-size: clamp(1.6rem, 4vw, 2.2rem); line-height: 1.2; letter-spacing: -0.015em; font-weight: 650; }
h2 {
  margin: 3.2rem 0 1.1rem; padding-top: 1.1rem; border-top: 1px solid var(--rule);
  font-size: 1.3rem; line-height: 1.3; font-weight: 650;
}
h3 { margin: 2rem 0 0.7rem; font-size: 1.05rem; font-weight: 650; }
p { margin: 0 0 1rem; max-width: 44rem; }
.subtitle { margin: 0.5rem 0 0; color: var(--quiet); font-size: 1.1rem; }
.note, figcaption { color: var(--quiet); font-size: 0.875rem; }
.note { margin-top: 0.8rem; }
figure { margin: 1rem 0 1.5rem; }
figcaption { margin-top: 0.5rem; max-width: 44rem; }
img.wide { display: block; max-width: 100%; height: auto; border-radius: 3px; background: #fff; }

.facts { display: flex; flex-wrap: wrap; gap: 1rem 2.6rem; margin: 2rem 0 0; }
.facts dt { color: var(--quiet); font-size: 0.8rem; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }

.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-size: 0.925rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 1.6rem 0.4rem 0; text-align: left; vertical-align: baseline; white-space: nowrap; }
th { font-weight: 400; }
thead th {
  color: var(--quiet); font-size: 0.8rem; border-bottom: 1px solid var(--quiet);
  white-space: normal; vertical-align: bottom;
}
tbody tr + tr > * { border-top: 1px solid var(--rule); }
.number { text-align: right; padding: 0.4rem 0 0.4rem 1.2rem; }
strong { font-weight: 700; color: var(--accent); }

.grid .name, .bars .name { color: var(--quiet); font-size: 0.875rem; overflow-wrap: anywhere; line-height: 1.3; }
.grid { display: grid; grid-template-columns: fit-content(9rem) 1fr; gap: 0.9rem 1.2rem; }
.grid > div { display: contents; }
.grid ul { display: flex; flex-wrap: wrap; gap: 8px; margin: 0; padding: 0; list-style: none; }
.grid li { font-size: 0.7rem; line-height: 1.3; color: var(--quiet); font-variant-numeric: tabular-nums; }
.grid img { display: block; background: var(--panel); border-radius: 2px; max-width: 100%; height: auto; }
.pixels:not(.large), .zoom input:checked ~ .large { image-rendering: pixelated; }
.grid i { display: block; height: 4px; margin: 3px 0 1px; background: var(--accent); border-radius: 1px; }
.grid.single { display: flex; flex-wrap: wrap; gap: 1.1rem 0.9rem; }
.grid.single > div { display: flex; flex-direction: column-reverse; justify-content: flex-end; gap: 0.25rem; }
.grid.real > div + div > * { border-top: 1px solid var(--rule); padding-top: 0.9rem; }
.grid .near { margin-top: 4px; }
.grid.pairs li { display: flex; gap: 8px; }
.grid.pairs .near { margin: 0; }
.grid .some { display: grid; grid-template-columns: repeat(2, max-content); gap: 4px; align-content: start; }
.grid li.some { margin-left: 12px; }
.grid.pairs li.some { grid-template-columns: repeat(4, max-content); gap: 8px; }
.zoom { display: block; cursor: zoom-in; }
.zoom:has(input:checked) { width: var(--w); height: var(--h); }
.zoom input { position: absolute; opacity: 0; pointer-events: none; }
.zoom input:focus-visible ~ img { outline: 2px solid var(--accent); outline-offset: 2px; }
.zoom input:checked ~ span { position: fixed; inset: 0; z-index: 1; background: rgb(0 0 0 / 0.8); cursor: zoom-out; }
.zoom input:checked ~ img {
  position: fixed; inset: 0; z-index: 2; margin: auto; cursor: zoom-out;
  width: min(90vw, 90vh); height: min(90vw, 90vh); max-width: none; object-fit: contain;
}

.bars, .plot { max-width: 54rem; }
.bars { display: grid; grid-template-columns: fit-content(9rem) 1fr max-content; gap: 0.45rem 1rem; }
.bars { align-items: center; }
.bars > div { display: contents; }
.bars .bar { display: flex; height: 0.8rem; min-width: 0; }
.bars i { background: var(--accent); border-right: 1px solid var(--paper); }
.bars .end { font-size: 0.875rem; text-align: right; font-variant-numeric: tabular-nums; }

.plot { margin-right: 1rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.4rem; margin: 0 0 0.8rem; padding: 0; list-style: none; }
.legend li { font-size: 0.875rem; }
.mark { width: 1.75rem; height: 0.625rem; margin-right: 0.5rem; }
.up, .across { margin: 0; color: var(--quiet); font-size: 0.8rem; }
.up { margin-bottom: 0.5rem; }
.across { text-align: right; max-width: none; }
.area { position: relative; height: 17rem; margin: 0 0 1.6rem 3.2rem; border-bottom: 1px solid var(--quiet); }
.area svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.area span { position: absolute; color: var(--quiet); font-size: 0.75rem; line-height: 1; }
.area .y { right: calc(100% + 0.5rem); transform: translateY(50%); }
.area .x { top: calc(100% + 0.4rem); transform: translateX(-50%); }
path { fill: none; vector-effect: non-scaling-stroke; }
.rule { stroke: var(--rule); stroke-width: 1px; }
.line { stroke-width: 2px; stroke-linejoin: round; stroke-linecap: round; }
.dot { stroke-width: 7px; }
.c0 { stroke: var(--c0); }
.c1 { stroke: var(--c1); stroke-dasharray: 8 5; }
.c2 { stroke: var(--c2); stroke-dasharray: 2 5; }
.c3 { stroke: var(--c3); stroke-dasharray: 10 4 2 4; }
.c4 { stroke: var(--c4); stroke-dasharray: 5 4; }
.c5 { stroke: var(--c5); stroke-dasharray: 1 4; }

pre {
  margin: 0 0 1rem; padding: 0.9rem 1.1rem; overflow-x: auto; background: var(--panel); border-radius: 4px;
  font: 0.85rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
pre code { font: inherit; user-select: all; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); margin-bottom: 0.8rem; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }

@media (max-width: 40rem) {
  body { padding-top: 1.5rem; }
  img.wide { max-width: max(100%, 44rem); }
  .grid:not(.single) { grid-template-columns: 1fr; gap: 0.3rem; }
  .grid:not(.single) ul { margin-bottom: 0.6rem; }
  .grid.real > div + div > ul { border: none; padding: 0; }
  .grid li.some { margin-left: 0; grid-template-columns: repeat(4, max-content); }
  .bars { grid-template-columns: fit-content(6rem) 1fr max-content; gap: 0.45rem 0.6rem; }
  .area { height: 13rem; margin-left: 2.8rem; }
  th, td { padding-right: 1rem; }
  .number { padding-left: 1rem; padding-right: 0; }
}
"""


def escape(text: str) -> str:
    """Text for an element or an attribute. What no HTML file may hold, or turns text around, is replaced."""
    return escape_markup(_UNFIT.sub("\N{REPLACEMENT CHARACTER}", text))


def document(title: str, blocks: Iterable[str], subtitle: str = "") -> str:
    """A complete HTML file: the title, a line below it, and the blocks that the other functions return."""
    below = f'<p class="subtitle">{escape(subtitle)}</p>\n' if subtitle else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
        f"</head>\n<body>\n<header>\n<h1>{escape(title)}</h1>\n{below}</header>\n<main>\n"
        + "\n".join(blocks)
        + "\n</main>\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """The heading of a section; level 1 is the title of the document."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, note: bool = False) -> str:
    """A paragraph of text, or a small ``note`` on the block above it."""
    return f'<p class="note">{escape(text)}</p>' if note else f"<p>{escape(text)}</p>"


def facts(pairs: Mapping[str, str]) -> str:
    """Names and values, side by side if there is room."""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs.items())
    return f'<dl class="facts">{items}</dl>'


def details(summary: str, blocks: Iterable[str]) -> str:
    """Blocks that are folded away until the reader opens them."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n" + "\n".join(blocks) + "\n</details>"


def code(text: str) -> str:
    """A command to copy; one click selects all of it."""
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, best: Iterable[tuple[int, int]] = ()
) -> str:
    """A table, which scrolls in its own box if it is too wide.

    Args:
      left: the number of text columns, flush left; the others are numbers, flush right.
      best: the places (row, column) of cells to emphasise.
    """
    best = set(best)
    side = lambda j: "" if j < left else ' class="number"'

    def cell(i: int, j: int, text: str) -> str:
        text = f"<strong>{escape(str(text))}</strong>" if (i, j) in best else escape(str(text))
        return f'<th scope="row">{text}</th>' if j == 0 and left else f"<td{side(j)}>{text}</td>"

    first = "".join(f'<th scope="col"{side(j)}>{escape(text)}</th>' for j, text in enumerate(head))
    body = "\n".join(
        f"<tr>{''.join(cell(i, j, text) for j, text in enumerate(row))}</tr>" for i, row in enumerate(rows)
    )
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{first}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def figure(picture: bytes, caption: str, alt: str) -> str:
    """A PNG or SVG, as wide as the page allows; on a narrow screen it scrolls in its own box."""
    kind = "png" if picture.startswith(b"\x89PNG") else "svg+xml"
    return (
        f'<figure><div class="scroll" tabindex="0"><img class="wide" src="{data(picture, kind)}" alt="{escape(alt)}">'
        f"</div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def data(picture: bytes, kind: str = "png") -> str:
    """A picture as an address, which holds all of it."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def bars(rows: Iterable[tuple[str, Sequence[float], str]], what: str) -> str:
    """A bar chart: each bar has a name, consists of parts side by side, and has a text at its end.

    Args:
      rows: (name, parts, text); the length of a bar is the sum of its parts, and the longest one fills the width.
      what: a name of the parts for screen readers.
    """
    rows = list(rows)
    longest = max((sum(parts) for _, parts, _ in rows), default=0) or 1
    lines = []
    for name, parts, text in rows:
        inside = "".join(f'<i style="width:{100 * part / longest:.2f}%"></i>' for part in parts)
        label = f"{what}: " + ", ".join(f"{part:.3g}" for part in parts)
        lines.append(
            f'<div><span class="name">{escape(name)}</span><span class="bar" role="img" aria-label="{escape(label)}">'
            f'{inside}</span><span class="end">{escape(text)}</span></div>'
        )
    return '<div class="bars">\n' + "\n".join(lines) + "\n</div>"


def curve(
    x: Sequence[float] | np.ndarray,
    lines: Mapping[str, Sequence[float] | np.ndarray],
    across: str,
    up: str,
    log: bool = False,
) -> str:
    """Curves over a common axis as SVG; the text keeps its size at any width.

    Args:
      x: [n].
      lines: name -> values [n]. Values that are not finite or beyond 1e270, or not above 1e-270 if ``log``, are left
        out, and so are lines without other values.
      across: the title of the horizontal axis.
      up: the title of the vertical axis.
      log: whether the vertical axis is logarithmic.
    """
    positions = np.asarray(x, float)
    curves = {name: np.asarray(values, float) for name, values in lines.items()}
    drawable = {name: (np.abs(values) <= _FAR) & ((values >= 1 / _FAR) | (not log)) for name, values in curves.items()}
    curves = {name: values for name, values in curves.items() if drawable[name].any()}
    if not curves:
        return paragraph(f"There is no {up} to show.", note=True)
    every = np.concatenate([values[drawable[name]] for name, values in curves.items()])
    scale = (lambda value: float(np.log10(value))) if log else float
    low, high = (scale(value) for value in (every.min(), every.max()))
    flat = high - low <= max(1e-6 * abs(high), 1 / _FAR)
    margin = (0.1 * abs(high) if abs(high) > 1 / _FAR else 0.1) if flat else 0.06 * (high - low)
    low, high = low - margin, high + margin
    left = float(positions.min())
    right = float(positions.max()) if positions.max() > left else left + 1
    place_x = lambda value: 100 * (value - left) / (right - left)
    place_y = lambda value: 100 * (scale(value) - low) / (high - low)
    uprights = _log_ticks(10**low, 10**high) if log else _ticks(low, high)
    drawn, labels, legend = [], [], []
    for tick, text in zip(uprights, [f"{tick:.6g}" for tick in uprights] if log else _alike(uprights)):
        drawn.append(f'<path class="rule" d="M0 {100 - place_y(tick):.2f}H100"/>')
        labels.append(f'<span class="y" style="bottom:{place_y(tick):.2f}%">{text}</span>')
    for tick, text in zip(_ticks(left, right), _alike(_ticks(left, right))):
        labels.append(f'<span class="x" style="left:{place_x(tick):.2f}%">{text}</span>')
    for k, (name, values) in enumerate(curves.items()):
        points = [(place_x(a), 100 - place_y(b)) for a, b, ok in zip(positions, values, drawable[name]) if ok]
        # A stroke of zero length with round ends is drawn as a dot.
        path = "L".join(f"{a:.2f} {b:.2f}" for a, b in (points if len(points) > 1 else 2 * points))
        drawn.append(f'<path class="line c{k % 6}{"" if len(points) > 1 else " dot"}" d="M{path}"/>')
        mark = f'<path class="line c{k % 6}" d="M1 5H27"/>'
        mark = f'<svg class="mark" aria-hidden="true" viewBox="0 0 28 10">{mark}</svg>'
        legend.append(f"<li>{mark}{escape(name)}</li>")
    ends = "; ".join(
        f"{name} from {values[drawable[name]][0]:.3g} to {values[drawable[name]][-1]:.3g}"
        for name, values in curves.items()
    )
    label = f"{up} over {across}: {ends}"
    note = ", logarithmic" if log else ""
    return (
        f'<figure class="plot"><ul class="legend">{"".join(legend)}</ul><p class="up">{escape(up)}{note}</p>\n'
        f'<div class="area" role="img" aria-label="{escape(label)}">\n'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{"".join(drawn)}</svg>\n'
        f'{"".join(labels)}\n</div><p class="across">{escape(across)}</p></figure>'
    )


def _ticks(low: float, high: float, most: int = 7) -> list[float]:
    """At most ``most`` round numbers from ``low`` to ``high``."""
    unit = 10.0 ** floor(log10((high - low) / most))
    step = next(k * unit for k in (1, 2, 5, 10, 20) if floor(high / (k * unit)) - ceil(low / (k * unit)) < most)
    return [k * step for k in range(ceil(low / step), floor(high / step) + 1)]


def _log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """At most ``most`` round numbers from ``low`` to ``high`` for a logarithmic axis."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for digits in ((1, 2, 3, 5), (1, 2, 5), (1,)):
        ticks = [k * 10.0**n for n in decades for k in digits if low <= k * 10.0**n <= high]
        if len(ticks) <= most:
            break
    return ticks[:: ceil(len(ticks) / most)] if len(ticks) > 1 else _ticks(low, high)


def _alike(ticks: list[float]) -> list[str]:
    """The numbers as text, all with the same number of decimals."""
    texts = [f"{tick:.6g}" for tick in ticks]
    decimals = max(len(text.partition(".")[2]) for text in texts)
    return texts if any("e" in text for text in texts) else [f"{tick:.{decimals}f}" for tick in ticks]
