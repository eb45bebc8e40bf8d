"""Charts as inline SVG, and pictures as PNG data: what a report page needs to show figures without a network.

Text and lines take the colour of the page (currentColor), so one chart serves light and dark. Series are told apart by
colour and by a second mark (dash), and every mark carries its value as a <title>.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from evaluation.figures import Figure, ReportError, percent
from whilst.render import Role, TokenRow
from whilst.visibility import GENERATED, Rule, Tokens, dense_mask

# Okabe and Ito's colours, which colour-blind readers can tell apart; all of them stand out on white and on black
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a8a")
DASHES = ("none", "7 3", "2 3", "9 3 2 3")

LONGEST_ROW = 4096  # tokens; the picture of a mask has as many pixels squared

# what a key token is -> its roles and its colour in the picture of a mask
KEYS: Mapping[str, tuple[tuple[Role, ...], str]] = {
    "vision": ((Role.VISION,), "#0072b2"),
    "thought": ((Role.THOUGHT,), "#e69f00"),
    "memory (text of thoughts)": ((Role.MEMORY,), "#009e73"),
    "query or answer": ((Role.TEXT, Role.ANSWER), "#cc79a7"),
    "system, marks and time stamps": ((Role.SYSTEM, Role.MARK, Role.STAMP, Role.PAD), "#8a8a8a"),
}


def arm_colours(report: Mapping[str, Any]) -> dict[str, str]:
    """The colour that each arm of a report has everywhere on the page."""
    arms = dict.fromkeys(arm for part in ("arms", "curves", "episodes") for arm in report.get(part) or {})
    return {arm: PALETTE[i % len(PALETTE)] for i, arm in enumerate(arms)}


def named(name: str, shade: str) -> str:
    """A name with its colour before it, as HTML."""
    return f'<span class="name"><span class="swatch" style="background:{shade}"></span>{escape(name)}</span>'


def legend(entries: Mapping[str, str]) -> str:
    """Names with their colours, as an HTML list."""
    return f'<ul class="legend">{"".join(f"<li>{named(*entry)}</li>" for entry in entries.items())}</ul>'


def curve_legend(colours: Mapping[str, str]) -> str:
    """As `legend`, with the dash of each curve."""
    items = "".join(
        f'<li><svg class="key" viewBox="0 0 30 8" aria-hidden="true"><line x1="0" y1="4" x2="30" y2="4" class="curve" '
        f'stroke="{shade}" stroke-dasharray="{DASHES[i % len(DASHES)]}"/></svg>{escape(name)}</li>'
        for i, (name, shade) in enumerate(colours.items())
    )
    return f'<ul class="legend">{items}</ul>'


def _svg(width: float, height: float, title: str, description: str, body: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width:g} {height:g}" style="min-width:{0.8 * width:g}px">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(body)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, extra: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {extra}/>'


# ---- Bars


def bars(
    series: Mapping[str, Mapping[str, Figure]], groups: Sequence[str], colours: Mapping[str, str], title: str
) -> str:
    """Accuracy by group (kind of query) and series (arm), with whiskers for the intervals. What is missing says so."""
    width, height, left, top, bottom = 720.0, 300.0, 44.0, 14.0, 34.0
    plot = height - top - bottom
    slot = (width - left - 6) / max(len(groups), 1)
    thick = slot * 0.8 / max(len(series), 1)

    def y(share: float) -> float:
        return top + plot * (1 - share)

    body = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(_line(left, y(tick), width - 6, y(tick), 'class="grid"'))
        body.append(_text(left - 6, y(tick) + 4, f"{100 * tick:.0f}%", "end"))
    for g, group in enumerate(groups):
        body.append(_text(left + slot * (g + 0.5), height - 12, group))
        for s, (name, figures) in enumerate(series.items()):
            x = left + slot * (g + 0.1) + thick * s
            figure = figures.get(group)
            if figure is None:
                turned = f'class="faint" transform="rotate(-90 {x + thick / 2 + 4:.1f} {y(0) - 6:.1f})"'
                body.append(_text(x + thick / 2 + 4, y(0) - 6, "missing", "start", turned))
                continue
            label = f"{name}, {group}: {percent(figure.accuracy)} {figure.interval}, n = {figure.n}"
            middle, cap = x + thick / 2, min(thick / 4, 5)
            body.append(
                f'<g><title>{escape(label)}</title><rect x="{x + thick * 0.06:.1f}" y="{y(figure.accuracy):.1f}" '
                f'width="{thick * 0.88:.1f}" height="{max(plot * figure.accuracy, 1):.1f}" fill="{colours[name]}"/>'
                + _line(middle, y(figure.low), middle, y(figure.high), 'class="whisker"')
                + _line(middle - cap, y(figure.low), middle + cap, y(figure.low), 'class="whisker"')
                + _line(middle - cap, y(figure.high), middle + cap, y(figure.high), 'class="whisker"')
                + "</g>"
            )
    return _svg(width, height, title, "The table beside this chart holds the same figures.", body)


# ---- Lines


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values from low to high, about `count` steps."""
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    colours: Mapping[str, str],
    title: str,
    top_value: float | None = None,
) -> str:
    """Curves of (step, value) points by series, from 0 up to `top_value` or the greatest value."""
    width, height, left, right, top, bottom = 420.0, 250.0, 44.0, 14.0, 12.0, 38.0
    every = [point for points in series.values() for point in points]
    x_max = max((x for x, _ in every), default=0) or 1.0
    y_max = top_value or max((y for _, y in every), default=0) or 1.0
    y_min = min(0.0, min((y for _, y in every), default=0))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (width - left - right) * x / x_max,
            top + (height - top - bottom) * (1 - (y - y_min) / (y_max - y_min)),
        )

    body = []
    for tick in _ticks(y_min, y_max):
        body.append(_line(left, at(0, tick)[1], width - right, at(0, tick)[1], 'class="grid"'))
        body.append(_text(left - 6, at(0, tick)[1] + 4, f"{tick:g}", "end"))
    for tick in _ticks(0, x_max):
        body.append(_text(at(tick, 0)[0], height - bottom + 16, f"{tick:g}"))
    body.append(_text((left + width - right) / 2, height - 4, "step"))
    for i, (name, points) in enumerate(series.items()):
        if not points:
            continue
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in points)
        dash = DASHES[i % len(DASHES)]
        label = f"{name}: from {points[0][1]:.4g} at step {points[0][0]:g} to {points[-1][1]:.4g} at {points[-1][0]:g}"
        body.append(
            f"<g><title>{escape(label)}</title>"
            f'<polyline points="{path}" class="curve" stroke="{colours[name]}" stroke-dasharray="{dash}"/></g>'
        )
    return _svg(width, height, title, "Curves by arm over training steps.", body)


def points(
    series: Mapping[str, Sequence[tuple[float, Figure]]], colours: Mapping[str, str], title: str, unit: str
) -> str:
    """Accuracies over a quantity: (where, figure) by series, joined, with whiskers for the intervals."""
    width, height, left, right, top, bottom = 720.0, 280.0, 44.0, 14.0, 12.0, 44.0
    every = [at for found in series.values() for at, _ in found]
    low, high = min(every, default=0.0), max(every, default=1.0)
    high = high if high > low else low + 1.0

    def place(x: float, share: float) -> tuple[float, float]:
        inner = width - left - right
        across = left + inner * (0.04 + 0.92 * (x - low) / (high - low))
        return across, top + (height - top - bottom) * (1 - share)

    body = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(_line(left, place(low, tick)[1], width - right, place(low, tick)[1], 'class="grid"'))
        body.append(_text(left - 6, place(low, tick)[1] + 4, f"{100 * tick:.0f}%", "end"))
    for tick in _ticks(low, high):
        body.append(_text(place(tick, 0)[0], height - bottom + 16, f"{tick:g}"))
    body.append(_text((left + width - right) / 2, height - 6, unit))
    for i, (name, found) in enumerate(series.items()):
        shift = 4.0 * (i - (len(series) - 1) / 2)  # whiskers of several series stand beside each other
        at = [(place(x, figure.accuracy)[0] + shift, figure) for x, figure in found]
        path = " ".join(f"{x:.1f},{place(low, figure.accuracy)[1]:.1f}" for x, figure in at)
        dash = DASHES[i % len(DASHES)]
        body.append(f'<polyline points="{path}" class="curve" stroke="{colours[name]}" stroke-dasharray="{dash}"/>')
        for (x, figure), (where, _) in zip(at, found, strict=True):
            label = f"{name}, {where:g}: {percent(figure.accuracy)} {figure.interval}, {figure.size}"
            stroke = f'stroke="{colours[name]}"'
            whisker = _line(x, place(low, figure.low)[1], x, place(low, figure.high)[1], stroke)
            body.append(
                f"<g><title>{escape(label)}</title>{whisker}"
                f'<circle cx="{x:.1f}" cy="{place(low, figure.accuracy)[1]:.1f}" r="3.5" fill="{colours[name]}"/></g>'
            )
    return _svg(width, height, title, "The table beside this chart holds the same figures.", body)


# ---- Pictures


def png(image: np.ndarray) -> str:
    """An image (H, W, 3 or 4) uint8 as a data: address."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def frame_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) at which a frame is shown: small ones enlarged by a whole factor, large ones made smaller."""
    factor = max(1, 96 // width) if width < 160 else 160 / width
    return round(width * factor), round(height * factor)


def frame(image: np.ndarray, alt: str) -> str:
    """A frame (H, W, 3) uint8 as an HTML image; small ones keep their pixels."""
    height, width = image.shape[:2]
    shown = frame_size(height, width)
    if shown[0] < width:
        image = np.asarray(Image.fromarray(image).resize(shown))
    return f'<img class="frame" src="{png(image)}" width="{shown[0]}" height="{shown[1]}" alt="{escape(alt)}">'


def mask_image(row: TokenRow, rule: Rule) -> np.ndarray:
    """(L, L, 4) uint8: pixel (q, k) has the colour of key k where query token q may attend to it, else is clear."""
    if len(row) > LONGEST_ROW:
        raise ReportError(
            f"sample {row.sample_id}: a row of {len(row)} tokens is too long to draw (at most {LONGEST_ROW}); "
            "take a sample with fewer segments or smaller frames"
        )
    allowed = dense_mask(rule, Tokens.of(row.meta)).numpy()
    shades = np.zeros((len(row), 4), np.uint8)
    for roles, shade in KEYS.values():
        shades[np.isin(row.roles, roles)] = [*bytes.fromhex(shade[1:]), 255]
    return np.where(allowed[..., None], shades[None], np.uint8(0))


def row_turns(row: TokenRow) -> list[tuple[int, str]]:
    """Where each turn of a row begins, and what it is, e.g. (17, "video 1"), (31, "thought 1").

    A turn with a prompt of its own (recurrent layouts, branches) begins at that and is called by what it generates.
    """
    meta = row.meta
    key = np.stack([meta[name] for name in ("stream", "unit", "branch", "turn", "segment")])
    starts = [0, *(np.flatnonzero((key[:, 1:] != key[:, :-1]).any(0)) + 1).tolist()]
    turns: list[tuple[int, str]] = []
    before = (0, -1)
    for start, stop in zip(starts, [*starts[1:], len(row)], strict=True):
        own = (int(meta["branch"][start]), int(meta["turn"][start]))
        roles = set(row.roles[start:stop].tolist())
        number = int(meta["now"][start]) + 1
        if int(meta["stream"][start]) == GENERATED:
            name = f"thought {number}" if Role.THOUGHT in roles else "answer"
            if own == before and own != (0, -1):
                turns[-1] = (turns[-1][0], name)
                continue
        elif Role.SYSTEM in roles:
            name = "system"
        elif Role.VISION in roles:
            name = f"video {number}"
        else:
            name = "query" if Role.TEXT in roles else "memory"
        turns.append((start, name))
        before = own
    return turns


def mask_picture(row: TokenRow, rule: Rule, title: str) -> str:
    """The visibility mask of a row: queries downwards, keys to the right, a tick at each turn."""
    length, side, left, top = len(row), 380.0, 62.0, 58.0
    scale = side / length
    image = mask_image(row, rule)
    factor = max(1, 960 // length)
    image = image.repeat(factor, 0).repeat(factor, 1)
    triangle = f"{left},{top} {left},{top + side} {left + side},{top + side}"
    body = [
        f'<polygon points="{triangle}" class="past"/>',
        f'<image href="{png(image)}" x="{left}" y="{top}" width="{side}" height="{side}" class="pixels"/>',
    ]
    last = -math.inf
    for start, name in row_turns(row):
        place = start * scale
        body.append(_line(left - 5, top + place, left + side, top + place, 'class="tick"'))
        body.append(_line(left + place, top - 5, left + place, top + side, 'class="tick"'))
        if place - last >= 11:  # room for one line of text
            last = place
            x = left + place + 8
            body.append(_text(left - 8, top + place + 9, name, "end", 'class="small"'))
            body.append(
                _text(x, top - 8, name, "start", f'class="small" transform="rotate(-60 {x:.1f} {top - 8:.1f})"')
            )
    description = (
        f"{length} tokens. Row: the token that looks; column: the token looked at, coloured by what it is; "
        "grey: in the past but hidden; empty: in the future."
    )
    return _svg(left + side + 30, top + side + 4, title, description, body)
