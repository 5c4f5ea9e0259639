"""Published tables of labels: what the numbers and colours of well-known masks mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

VOID = 255
"""The value of pixels without a class, in masks of 8 bits that follow these tables."""
WIDE_VOID = 65535
"""The same where there are more classes."""
VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Of PASCAL VOC; 255 is the border of objects."""


class CityscapesLabel(NamedTuple):
    name: str
    id: int
    train_id: int
    colour: tuple[int, int, int]


CITYSCAPES = tuple(
    CityscapesLabel(*row)
    for row in (
        ("unlabeled", 0, VOID, (0, 0, 0)),
        ("ego vehicle", 1, VOID, (0, 0, 0)),
        ("rectification border", 2, VOID, (0, 0, 0)),
        ("out of roi", 3, VOID, (0, 0, 0)),
        ("static", 4, VOID, (0, 0, 0)),
        ("dynamic", 5, VOID, (111, 74, 0)),
        ("ground", 6, VOID, (81, 0, 81)),
        ("road", 7, 0, (128, 64, 128)),
        ("sidewalk", 8, 1, (244, 35, 232)),
        ("parking", 9, VOID, (250, 170, 160)),
        ("rail track", 10, VOID, (230, 150, 140)),
        ("building", 11, 2, (70, 70, 70)),
        ("wall", 12, 3, (102, 102, 156)),
        ("fence", 13, 4, (190, 153, 153)),
        ("guard rail", 14, VOID, (180, 165, 180)),
        ("bridge", 15, VOID, (150, 100, 100)),
        ("tunnel", 16, VOID, (150, 120, 90)),
        ("pole", 17, 5, (153, 153, 153)),
        ("polegroup", 18, VOID, (153, 153, 153)),
        ("traffic light", 19, 6, (250, 170, 30)),
        ("traffic sign", 20, 7, (220, 220, 0)),
        ("vegetation", 21, 8, (107, 142, 35)),
        ("terrain", 22, 9, (152, 251, 152)),
        ("sky", 23, 10, (70, 130, 180)),
        ("person", 24, 11, (220, 20, 60)),
        ("rider", 25, 12, (255, 0, 0)),
        ("car", 26, 13, (0, 0, 142)),
        ("truck", 27, 14, (0, 0, 70)),
        ("bus", 28, 15, (0, 60, 100)),
        ("caravan", 29, VOID, (0, 0, 90)),
        ("trailer", 30, VOID, (0, 0, 110)),
        ("train", 31, 16, (0, 80, 100)),
        ("motorcycle", 32, 17, (0, 0, 230)),
        ("bicycle", 33, 18, (119, 11, 32)),
        ("license plate", -1, VOID, (0, 0, 142)),
    )
)
"""Of `cityscapesScripts`. Where two labels have one colour (pole and polegroup, car and license plate), the colour means the one that has a
class."""
CAMVID = tuple(
    sorted(
        {
            **{"Animal": (64, 128, 64), "Archway": (192, 0, 128), "Bicyclist": (0, 128, 192), "Bridge": (0, 128, 64)},
            **{"Building": (128, 0, 0), "Car": (64, 0, 128), "CartLuggagePram": (64, 0, 192), "Child": (192, 128, 64)},
            **{"Column_Pole": (192, 192, 128), "Fence": (64, 64, 128), "LaneMkgsDriv": (128, 0, 192), "LaneMkgsNonDriv": (192, 0, 64)},
            **{"Misc_Text": (128, 128, 64), "MotorcycleScooter": (192, 0, 192), "OtherMoving": (128, 64, 64)},
            **{"ParkingBlock": (64, 192, 128), "Pedestrian": (64, 64, 0), "Road": (128, 64, 128), "RoadShoulder": (128, 128, 192)},
            **{"Sidewalk": (0, 0, 192), "SignSymbol": (192, 128, 128), "Sky": (128, 128, 128), "SUVPickupTruck": (64, 128, 192)},
            **{"TrafficCone": (0, 0, 64), "TrafficLight": (0, 64, 64), "Train": (192, 64, 128), "Tree": (128, 128, 0)},
            **{
                "Truck_Bus": (192, 128, 192),
                "Tunnel": (64, 0, 64),
                "VegetationMisc": (192, 192, 0),
                "Void": (0, 0, 0),
                "Wall": (64, 192, 0),
            },
        }.items(),
        key=lambda item: item[0].lower(),
    )
)
"""The 32 colours of CamVid's `label_colors.txt`, in its order."""


_CAMVID_11 = {
    **{"sky": (128, 128, 128), "building": (128, 0, 0), "pole": (192, 192, 128), "road": (128, 64, 128), "pavement": (60, 40, 222)},
    **{"tree": (128, 128, 0), "signsymbol": (192, 128, 128), "fence": (64, 64, 128), "car": (64, 0, 128), "pedestrian": (64, 64, 0)},
    "bicyclist": (0, 128, 192),
}
"""Of the eleven classes to which CamVid is often reduced, as SegNet colours them."""
_ADE20K = (
    "787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 "
    "ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff "
    "08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff "
    "eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff "
    "0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad "
    "0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 "
    "00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa "
    "8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3 "
    "ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff "
    "00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff "
)
"""Red, green and blue of the 150 classes of ADE20K's scene parsing, as its development kit colours them."""


def known_colours(names: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """The colours in which a well-known data set shows the classes of these names, in their order; none for other names."""
    given = [name.lower() for name in names]
    if len(names) == 150 and given[0].startswith("wall") and given[149].startswith("flag"):
        return tuple((one[0], one[1], one[2]) for one in map(bytes.fromhex, _ADE20K.split()))
    tables = (
        {one.name: one.colour for one in CITYSCAPES if one.train_id != VOID},
        dict(zip(VOC, voc_colours(len(VOC)), strict=True)),
        _CAMVID_11,
        {name.lower(): colour for name, colour in CAMVID if name != "Void"},
    )
    table = next((one for one in tables if sorted(one) == sorted(given)), {})
    return tuple(table[name] for name in given) if table else ()


def void_of(classes: int) -> int:
    """The value of pixels without a class, of so many classes."""
    return VOID if classes <= VOID else WIDE_VOID


def voc_colours(count: int) -> list[tuple[int, int, int]]:
    """The colours that VOC's development kit gives to the indices 0 to `count` - 1: their bits, three by three, the highest first."""
    return [
        (
            sum((index >> (3 * bit) & 1) << (7 - bit) for bit in range(3)),
            sum((index >> (3 * bit + 1) & 1) << (7 - bit) for bit in range(3)),
            sum((index >> (3 * bit + 2) & 1) << (7 - bit) for bit in range(3)),
        )
        for index in range(count)
    ]
