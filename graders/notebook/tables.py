"""What cells show: tables and drawings, each also as text."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from graders.harness.report.text import clean, pad, wrap

WIDEST = 62  # columns of text


@dataclass(frozen=True)
class Html:
    """A drawing, and its text twin."""

    markup: str
    text: str

    @property
    def escaped(self) -> str:
        """The text, as it is written in HTML."""
        return html.escape(self.text)

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """Rows under heads. The same on every run, so that notebooks can be compared."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def _repr_html_(self) -> str:
        heads = "".join(f'<th style="text-align:left">{html.escape(h)}</th>' for h in self.heads)
        body = "".join(
            "<tr>" + "".join(
                f'<td style="text-align:left">{html.escape(clean(cell))}</td>' for cell in row
            ) + "</tr>" for row in self.rows
        )
        caption = f'<caption style="text-align:left">{html.escape(self.caption)}</caption>' \
            if self.caption else ""
        return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"

    def __repr__(self) -> str:
        widths = [
            min(WIDEST, max(map(len, (head, *(row[n] for row in self.rows)))))
            for n, head in enumerate(self.heads)
        ]
        lines = [self.caption] if self.caption else []
        lines += _lines(self.heads, widths)
        lines.append("  ".join("-" * width for width in widths))
        for row in self.rows:
            lines += _lines([clean(cell) for cell in row], widths)
        return "\n".join(lines)


def _lines(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    wrapped = [wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
    return [
        "  ".join(pad(part[n] if n < len(part) else "", width)
                  for part, width in zip(wrapped, widths, strict=True)).rstrip()
        for n in range(max(map(len, wrapped)))
    ]
