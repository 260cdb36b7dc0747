"""A scalar in one byte: sign, and the logarithm of the magnitude in seven bits.

Decoded values are integers, in units of 2^-24 of the run's unit. Tables are literal, because `exp`
may round differently elsewhere; sums of integers are the same in any order.
"""

import math

ABSTAIN = 0x80
"""The byte of a sample without a scalar; it would be minus zero."""
FRACTION_BITS = 24
LARGEST = 127
_SIGN = 0x80
_CENTRE, _STEPS = 80, 8
MAGNITUDES = (
    0,
    0x35F,
    0x3D2,
    0x454,
    0x4E8,
    0x58F,
    0x64C,
    0x723,
    0x816,
    0x92A,
    0xA63,
    0xBC5,
    0xD56,
    0xF1C,
    0x111F,
    0x1367,
    0x15FC,
    0x18EA,
    0x1C3B,
    0x1FFD,
    0x243F,
    0x2913,
    0x2E8B,
    0x34BD,
    0x3BC3,
    0x43B8,
    0x4CBC,
    0x56F4,
    0x6288,
    0x6FA6,
    0x7E84,
    0x8F5C,
    0xA273,
    0xB814,
    0xD096,
    0xEC5C,
    0x10BD5,
    0x12F7E,
    0x157E7,
    0x185B1,
    0x1B994,
    0x1F460,
    0x236FF,
    0x2827E,
    0x2D80A,
    0x338FA,
    0x3A6D2,
    0x4234A,
    0x4B055,
    0x55028,
    0x60542,
    0x6D27A,
    0x7BB04,
    0x8C285,
    0x9ED1B,
    0xB3F73,
    0xCBED8,
    0xE714A,
    0x105D94,
    0x128B69,
    0x150386,
    0x17CFCC,
    0x1AFB72,
    0x1E9329,
    0x22A555,
    0x274245,
    0x2C7C73,
    0x3268CE,
    0x391F0F,
    0x40BA19,
    0x495861,
    0x531C6D,
    0x5E2D59,
    0x6AB778,
    0x78ED04,
    0x8906E5,
    0x9B4598,
    0xAFF231,
    0xC75F7D,
    0xE1EB51,
    0x1000000,
    0x1221604,
    0x148B5E4,
    0x1747A51,
    0x1A61299,
    0x1DE455E,
    0x21DF3B7,
    0x2661CB1,
    0x2B7E151,
    0x3148917,
    0x37D871E,
    0x3F47FE8,
    0x47B4FFA,
    0x5141345,
    0x5C12DA4,
    0x6855467,
    0x763992E,
    0x85F7636,
    0x97CDC41,
    0xAC04266,
    0xC2EB7ED,
    0xDCDF893,
    0xFA48386,
    0x11B9B565,
    0x1415E5BF,
    0x16C2887C,
    0x19CA53B8,
    0x1D396AA9,
    0x211D8E42,
    0x25865442,
    0x2A8565A1,
    0x302EC551,
    0x3699205C,
    0x3DDE28BF,
    0x461AFC4E,
    0x4F709953,
    0x5A0462B8,
    0x6600B5BD,
    0x739593AC,
    0x82F9621B,
    0x9469C4CC,
    0xA82C948C,
    0xBE90F6F8,
    0xD7F09B79,
    0xF4B12279,
    0x11545B470,
    0x13A30CF1D,
    0x164065029,
)
"""round(2^24 exp((m - 80) / 8)) for m of 1 to 127: from 5e-5 to 356 units."""


def encode(value: float, unit: float) -> int:
    """Return the byte nearest to a value on a log scale; NaN and infinity abstain.

    Args:
        value: the scalar.
        unit: the value that 1 stands for.

    Returns:
        0 to 255.
    """
    if not math.isfinite(value):
        return ABSTAIN
    size = abs(value) / unit
    level = round(_STEPS * math.log(size)) + _CENTRE if size > 0 else 0
    if level < 1:
        return 0
    return min(level, LARGEST) | (_SIGN if value < 0 else 0)


def decode(code: int) -> int:
    """Return the value of a byte, in units of 2^-24; 0 for one that abstains."""
    size = MAGNITUDES[code & LARGEST]
    return -size if code & _SIGN else size
