"""Draw docs/rooms.svg from the real imports: python -m tests.support.draw_rooms."""

from html import escape

from tests.support.room_graph import BANDS, ROOT, modules, room_imports, room_of

FIGURE = ROOT / "docs" / "rooms.svg"
_WIDTH, _HEIGHT = 176, 34
_GAP_X, _GAP_Y = 16, 34
_MARGIN = 96
_SHARED = ("actors", "runtime", "protos")
_COLORS = {
    "cluster": "#fde7d3",
    "actors": "#f6d9e6",
    "runtime": "#d9e8fb",
    "parallel": "#dcf1dd",
    "protos": "#ece7f6",
}


def drawing() -> str:
    """Return the figure: a band for each top-level room, floors within it, arrows downward."""
    boxes = {_box(room_of(module)) for module in modules()}
    bands = {band: _inside(band, boxes) for band in BANDS}
    floors = {band: _floors(rooms) for band, rooms in bands.items()}
    columns = max(len(floor) for band in BANDS for floor in floors[band])
    shapes: list[str] = []
    top = 16
    for band in BANDS:
        shapes += _band(band, floors[band], bands[band], top, columns)
        top += len(floors[band]) * (_HEIGHT + _GAP_Y) + 8
    width = _MARGIN + columns * (_WIDTH + _GAP_X)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" '
            'font-family="sans-serif" font-size="12">',
            "<title>Paceline's rooms; an arrow points from a room to one that it imports</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#778"/></marker></defs>',
            f'<rect width="{width}" height="{top}" fill="#ffffff"/>',
            *shapes,
            "</svg>",
            "",
        ]
    )


def _box(room: str) -> str:
    """Return the box that shows a room: the single files of a band share one."""
    band, _, name = room.partition(".")
    return f"{band}.*.py" if (ROOT / band / f"{name}.py").exists() and band in _SHARED else room


def _inside(band: str, boxes: set[str]) -> dict[str, set[str]]:
    """Return what each room of a band imports of that band."""
    arrows: dict[str, set[str]] = {box: set() for box in sorted(boxes) if box.split(".")[0] == band}
    for room, others in room_imports().items():
        if _box(room) in arrows:
            arrows[_box(room)] |= {_box(other) for other in others} & arrows.keys() - {_box(room)}
    return arrows


def _band(
    band: str,
    floors: list[list[str]],
    arrows: dict[str, set[str]],
    top: int,
    columns: int,
) -> list[str]:
    places: dict[str, tuple[int, int]] = {}
    for floor, rooms in enumerate(reversed(floors)):
        left = _MARGIN + (columns - len(rooms)) * (_WIDTH + _GAP_X) // 2
        for column, room in enumerate(rooms):
            places[room] = (
                left + column * (_WIDTH + _GAP_X),
                top + floor * (_HEIGHT + _GAP_Y),
            )
    shapes = [
        f'<text x="12" y="{top + 21}" font-weight="bold" font-size="15">{band}/</text>',
    ]
    for room, others in arrows.items():
        for other in sorted(_direct(others, arrows)):
            x, y = places[room]
            to_x, to_y = places[other]
            shapes.append(
                f'<path d="M{x + _WIDTH // 2} {y + _HEIGHT} C{x + _WIDTH // 2} {y + _HEIGHT + 22} '
                f'{to_x + _WIDTH // 2} {to_y - 22} {to_x + _WIDTH // 2} {to_y}" fill="none" '
                'stroke="#778" marker-end="url(#tip)"/>'
            )
    for room, (x, y) in places.items():
        name = escape(room.removeprefix(f"{band}.").replace(".", "/").replace("*/py", "*.py"))
        shapes.append(
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" '
            f'fill="{_COLORS[band]}" stroke="#99a"/>'
            f'<text x="{x + _WIDTH // 2}" y="{y + 21}" text-anchor="middle">{name}</text>'
        )
    return shapes


def _floors(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the rooms by floor: each stands above all that it imports."""
    floor: dict[str, int] = {}

    def height(room: str, above: frozenset[str]) -> int:
        assert room not in above, f"{room} is part of an import cycle"
        if room not in floor:
            below = [height(other, above | {room}) for other in arrows[room]]
            floor[room] = 1 + max(below, default=-1)
        return floor[room]

    for room in arrows:
        height(room, frozenset())
    return [
        sorted(room for room in arrows if floor[room] == level)
        for level in range(max(floor.values(), default=0) + 1)
    ]


def _direct(others: set[str], arrows: dict[str, set[str]]) -> set[str]:
    """Return the imports that no other import of the room reaches: fewer arrows show the same."""
    reached = set[str]()
    for other in others:
        todo = list(arrows[other])
        while todo:
            found = todo.pop()
            if found not in reached:
                reached.add(found)
                todo += arrows[found]
    return others - reached


if __name__ == "__main__":
    FIGURE.write_text(drawing(), encoding="utf-8")
