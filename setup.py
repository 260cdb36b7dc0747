"""Build the native kernels where there is a C compiler; everything else is in pyproject.toml."""

import hashlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

_SOURCES = Path("parallel/kernels/csrc")


class BuildKernels(build_ext):
    """Builds a plain C library, which is loaded with ctypes and is no Python module."""

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Export no module initialization."""
        return list(ext.export_symbols)


digest = hashlib.blake2b(digest_size=8)
for file in sorted(_SOURCES.iterdir()):
    digest.update(file.read_bytes())

setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        Extension(
            "parallel.kernels._native",
            sources=[str(file) for file in sorted(_SOURCES.glob("*.c"))],
            depends=[str(file) for file in sorted(_SOURCES.glob("*.h"))],
            define_macros=[("KERNELS_VERSION", f'"{digest.hexdigest()}"')],
            extra_compile_args=[
                *("-O3", "-std=gnu11", "-pthread", "-fno-strict-aliasing"),
                *("-ffp-contract=off", "-Wno-psabi"),
            ],
            extra_link_args=["-pthread", "-lm"],
            optional=True,
        )
    ],
)
