"""A worker of a vendor that does not exist, whose tool is the program given first."""

import os
import sys

from collectors.xpu.base import Command, CommandWay, ParseError, Vendor, Way
from collectors.xpu.worker import serve
from schemas.records import XpuDevice


def parse(text: str) -> list[XpuDevice]:
    words = text.split()
    if words[:1] != ["used"]:
        raise ParseError(f"no 'used' in {text[:20]!r}: run it by hand")
    os.write(1, b"a library that talks\n")
    memory = int(words[1])
    return [XpuDevice(device_id="FAKE-0", vendor="fake", model="Fake", memory_used_bytes=memory)]


class Fake(Vendor):
    title = "Fake"

    def ways(self) -> list[Way]:
        program, *others = sys.argv[1].split(",")
        return [
            CommandWay(f"tool{place}", [Command((one,), parse)])
            for place, one in enumerate([program, *others])
        ]


if __name__ == "__main__":
    serve(Fake(), sys.argv[2:])
