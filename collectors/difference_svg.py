"""Draw two captures as one flame graph: red where more of the time goes, blue where less.

A picture that stands alone: no script and no font is needed to read it.
"""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from collectors.folded import Function, Node, clear_change

WIDTH, MARGIN = 1200, 12
INNER = WIDTH - 2 * MARGIN
ROW, LINE = 17, 16
# Of 11 px letters of a monospace font; a little more than most fonts need.
LETTER = 6.7
COLUMNS, NAME_COLUMN = (0, 60, 145, 205), 400
LEAST_BOX = 1.5
MOST_BOXES_OF_THREAD = 500
MOST_ROWS = 70
MOST_THREADS = 4
MOST_LISTED = 8
# A change of this share is drawn in full colour, or the largest one if that is larger.
FULL_COLOUR = 0.1
UNCHANGED, RED, BLUE = (238, 238, 238), (240, 84, 66), (92, 142, 240)
STYLE = (
    "text{font:11px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#111}"
    ".title{font-size:16px;font-weight:bold}.head{font-weight:bold}"
    ".note{fill:#555}rect{stroke:#fff;stroke-width:.5}"
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One process: its name, its number of samples in both captures, and what they add up to."""

    name: str
    samples: tuple[int, int]
    root: Node


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of the list: a function and its own share of the time in both captures.

    ``process`` says where.
    """

    process: str
    function: Function
    reference: float
    during: float


@dataclass(slots=True)
class _Page:
    """What was drawn so far, and how far down that reaches."""

    full: float
    parts: list[str] = field(default_factory=list)
    y: float = 30.0

    def write(self, text: str, style: str = "", *, x: float = MARGIN) -> None:
        """Write one line of text, and go to the next."""
        self.put(text, x, style)
        self.y += LINE

    def put(self, text: str, x: float, style: str = "") -> None:
        """Write text into the line that is being written."""
        kind = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{x:g}" y="{self.y:g}"{kind}>{_escaped(text)}</text>')


def draw(
    title: str,
    notes: Sequence[str],
    grown: Sequence[Listed],
    shrunk: Sequence[Listed],
    panels: Sequence[Panel],
) -> str:
    """Draw the title, lists of what changed most, and each process.

    Args:
        title: The first line.

        notes: Lines below it: which capture is which.

        grown: What grew clearly, that which grew most first; likewise ``shrunk``.

        panels: The processes, in their order.
    """
    largest = max((abs(one.during - one.reference) for one in (*grown, *shrunk)), default=0.0)
    page = _Page(full=max(FULL_COLOUR, largest))
    page.write(title, "title")
    page.y += 4
    for note in notes:
        page.write(note)
    _write_legend(page)
    _write_list(page, "Grew most", grown)
    _write_list(page, "Shrank most", shrunk)
    for panel in panels:
        _draw_panel(page, panel)
    height = page.y + MARGIN
    return "\n".join(
        (
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}" '
            f'viewBox="0 0 {WIDTH} {height:g}">',
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height:g}" fill="#fff"/>',
            *page.parts,
            "</svg>\n",
        )
    )


def _write_legend(page: _Page) -> None:
    page.y += 6
    for x, share, text in (
        (0, page.full, "more of the time"),
        (170, -page.full, "less"),
        (250, 0.0, "the same, or what chance alone may do"),
    ):
        page.parts.append(
            f'<rect x="{MARGIN + x}" y="{page.y - 10:g}" width="12" height="12" '
            f'fill="{_colour(share, page.full)}"/>'
        )
        page.put(text, MARGIN + x + 18)
    page.y += LINE
    page.write("A box is as wide as its mean share of the thread's time in both captures.", "note")


def _write_list(page: _Page, head: str, listed: Sequence[Listed]) -> None:
    page.y += 8
    page.write(f"{head} (own share of the time, without the Python functions it calls)", "head")
    if not listed:
        page.write("nothing that is more than chance", "note")
    for one in listed[:MOST_LISTED]:
        before, during = 100 * one.reference, 100 * one.during
        columns = (f"{before:.1f} %", f"to {during:.1f} %", f"{during - before:+.1f}", one.process)
        for x, text in zip(COLUMNS, columns, strict=True):
            page.put(text, MARGIN + x)
        page.write(_name(one.function), x=MARGIN + NAME_COLUMN)


def _draw_panel(page: _Page, panel: Panel) -> None:
    page.y += 14
    before, during = panel.samples
    page.write(f"{panel.name}: {during} samples, compared with {before}", "head")
    threads = sorted(
        ((_most_change(node, panel.samples), function, node) for function, node in _sorted(panel)),
        key=lambda found: -found[0],
    )
    changed = [found for found in threads if found[0]]
    for _, function, node in changed[:MOST_THREADS]:
        _draw_thread(page, function, node, panel.samples)
    left_out = len(threads) - min(len(changed), MOST_THREADS)
    if left_out:
        what = "without a clear change" if len(changed) <= MOST_THREADS else "with less change"
        threads_word = "thread" if left_out == 1 else "threads"
        page.write(f"left out: {left_out} {threads_word} {what}", "note")


def _sorted(panel: Panel) -> list[tuple[Function, Node]]:
    return sorted(panel.root.children.items())


def _most_change(thread: Node, samples: tuple[int, int]) -> float:
    nodes, most = [thread], 0.0
    while nodes:
        node = nodes.pop()
        most = max(most, abs(clear_change(node.reference, node.during, samples)))
        nodes += node.children.values()
    return most


def _draw_thread(page: _Page, function: Function, thread: Node, samples: tuple[int, int]) -> None:
    boxes = sorted(_boxes(function, thread), key=lambda box: (-box[1], box[2]))
    top = page.y - 10
    rows = 0
    for x, width, row, name, node in boxes[:MOST_BOXES_OF_THREAD]:
        rows = max(rows, row + 1)
        change = clear_change(node.reference, node.during, samples)
        y = top + row * ROW
        tip = (
            f"{name}: {100 * node.reference:.1f} % -> {100 * node.during:.1f} % of the time "
            f"({100 * (node.during - node.reference):+.1f})"
        )
        page.parts.append(
            f'<g><title>{_escaped(tip)}</title><rect x="{x:.1f}" y="{y:g}" width="{width:.1f}" '
            f'height="{ROW - 1}" fill="{_colour(change, page.full)}"/>'
            f"{_label(name, x, y, width)}</g>"
        )
    page.y = top + rows * ROW + 22


def _boxes(function: Function, thread: Node) -> Iterator[tuple[float, float, int, str, Node]]:
    """Give place, width, row, name and node of each box that is wide and high enough to see."""
    scale = INNER / max(thread.reference + thread.during, 1e-9)
    nodes = [(function, thread, float(MARGIN), 0)]
    while nodes:
        function, node, x, row = nodes.pop()
        width = scale * (node.reference + node.during)
        if width < LEAST_BOX or row >= MOST_ROWS:
            continue
        yield x, width, row, _name(function), node
        for child, below in sorted(node.children.items()):
            nodes.append((child, below, x, row + 1))
            x += scale * (below.reference + below.during)


def _label(name: str, x: float, y: float, width: float) -> str:
    letters = int((width - 6) / LETTER)
    if letters < 3:
        return ""
    text = name if len(name) <= letters else name[: letters - 1] + "…"
    return f'<text x="{x + 3:.1f}" y="{y + 12:g}">{_escaped(text)}</text>'


def _name(function: Function) -> str:
    if not function.file:
        return function.name
    return f"{function.name} ({function.file}:{function.line})"


def _colour(change: float, full: float) -> str:
    if not change:
        return f"rgb{UNCHANGED}".replace(" ", "")
    strength = 0.2 + 0.8 * min(abs(change) / full, 1.0)
    end = RED if change > 0 else BLUE
    mixed = tuple(round(255 - strength * (255 - part)) for part in end)
    return f"rgb{mixed}".replace(" ", "")


def _escaped(text: str) -> str:
    """Make text fit for XML, which knows no control characters, not even escaped."""
    return html.escape("".join(one if one.isprintable() else "?" for one in text))
