"""Writes the few SVG shapes that our pictures need. Colours are classes, so that one file serves light and dark pages."""

from html import escape

STYLE = """
  text { font: 13px "DejaVu Sans", Verdana, sans-serif; fill: #1d2430 }
  .small { font-size: 11px; fill: #55607a }
  .bold { font-weight: bold }
  .title { font-size: 17px; font-weight: bold }
  .paper { fill: #ffffff }
  .band { fill: #f3f5f9 }
  .box { fill: #ffffff; stroke: #8b96ad }
  .group { fill: #eef3fb; stroke: #8b96ad }
  .plate { fill: #ffffff }
  .line { fill: none; stroke: #4a5a7a; stroke-width: 1.3 }
  .grid { stroke: #dfe4ee; stroke-width: 1 }
  .dot { fill: #2f6fd0 }
  .self { fill: #c9d2e3 }
  .head { fill: #4a5a7a }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6eaf2 }
    .small { fill: #a3afc6 }
    .paper { fill: #12161f }
    .band { fill: #1a202c }
    .box { fill: #1a202c; stroke: #5a6784 }
    .group { fill: #161d2a; stroke: #5a6784 }
    .plate { fill: #12161f }
    .line { stroke: #9fb0d0 }
    .grid { stroke: #2a3344 }
    .dot { fill: #6ea8ff }
    .self { fill: #3a465c }
    .head { fill: #9fb0d0 }
  }
"""


class Picture:
    """An SVG document of a fixed size in pixels. Each method draws one shape above those before it.

    Example::

        picture = Picture(300, 80, "Two rooms")
        picture.box(10, 10, 100, 40, "domain", "pure rules")
        path.write_text(picture.text())
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
            ),
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            (
                '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                'orient="auto-start-reverse"><path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
            ),
        ]
        self.rectangle(0, 0, width, height, "paper", radius=0)

    def rectangle(
        self, x: float, y: float, width: float, height: float, kind: str, radius: float = 6
    ) -> None:
        """A filled rectangle of a class of `STYLE`."""
        self._parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"/>'
        )

    def write(
        self, x: float, y: float, words: str, kind: str = "", anchor: str = "start", turn: float = 0
    ) -> None:
        """One line of text whose baseline begins (or ends, or has its middle) at a point."""
        turned = f' transform="rotate({turn:g} {x:g} {y:g})"' if turn else ""
        self._parts.append(
            f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{turned}>{escape(words)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, name: str, *lines: str) -> None:
        """A box with a name and small lines below it."""
        self.rectangle(x, y, width, height, "box")
        self.write(x + 10, y + 19, name, "bold")
        for number, line in enumerate(lines):
            self.write(x + 10, y + 36 + 15 * number, line, "small")

    def line(
        self, *points: tuple[float, float], kind: str = "line", both: bool = False, tip: bool = True
    ) -> None:
        """A line through points, with a tip at its end, and at its beginning too when `both`."""
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        tips = ' marker-end="url(#tip)"' if tip else ""
        tips += ' marker-start="url(#tip)"' if both else ""
        self._parts.append(f'<path class="{kind}" d="{path}"{tips}/>')

    def label(self, x: float, y: float, *lines: str) -> None:
        """Small lines of text over a plate, centred at a point, so that a line below stays readable."""
        wide = max(len(line) for line in lines) * 6.3 + 8
        high = 14 * len(lines) + 4
        self.rectangle(x - wide / 2, y - high / 2, wide, high, "plate", radius=3)
        for number, line in enumerate(lines):
            self.write(x, y - high / 2 + 13 + 14 * number, line, "small", "middle")

    def dot(self, x: float, y: float, kind: str = "dot", radius: float = 4.5) -> None:
        """A filled circle."""
        self._parts.append(f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>')

    def text(self) -> str:
        """The document."""
        return "\n".join([*self._parts, "</svg>", ""])
