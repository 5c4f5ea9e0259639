"""Published tables of labels: what the numbers and colours of well-known masks mean."""

from __future__ import annotations

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
