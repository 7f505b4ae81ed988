"""Builds the two extension modules from `_ext/`; everything else stands in pyproject.toml.

Switches (environment, each "1" unless it says otherwise):
  RIVER_FAST_DEBUG      -O0 -g3, C assertions and bounds checks on
  RIVER_FAST_SANITIZE   address,undefined | thread: built under those sanitizers
  RIVER_FAST_TRACE      line tracing for Cython.Coverage; the generated C then lies beside its .pyx
  RIVER_FAST_WERROR     warnings are errors
"""

import os
import platform
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("RIVER_FAST_DEBUG") == "1"
SANITIZE = os.environ.get("RIVER_FAST_SANITIZE", "")
TRACE = os.environ.get("RIVER_FAST_TRACE") == "1"
WERROR = os.environ.get("RIVER_FAST_WERROR") == "1"
HEADERS = [f"_ext/{name}" for name in sorted(os.listdir("_ext")) if name.endswith((".h", ".pxd", ".pxi"))]

compile_args = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter"]
link_args = [] if sys.platform == "darwin" else ["-Wl,-z,relro,-z,now"]
if DEBUG:
    compile_args += ["-O0", "-g3", "-UNDEBUG"]
else:
    compile_args += ["-O2", "-g1", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
if sys.platform == "linux" and platform.machine() == "x86_64":
    compile_args += ["-fcf-protection"]
if SANITIZE:
    compile_args += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-U_FORTIFY_SOURCE"]
    link_args += [f"-fsanitize={SANITIZE}"]
if WERROR:
    compile_args += ["-Werror"]

DIRECTIVES = {
    "language_level": "3",
    "binding": True,
    "embedsignature": True,
    "auto_pickle": False,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "freethreading_compatible": True,
    "linetrace": TRACE,
    "autotestdict": False,  # no __test__: it is nobody's promise
}


class BuildExt(build_ext):
    """setuptools' own build_ext, with Cython's C kept out of the source tree."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.cython_c_in_temp = not TRACE


def extension(noun: str) -> Extension:
    made = Extension(
        f"river_fast._ext.{noun}",
        [f"_ext/{noun}.pyx"],
        include_dirs=["_ext"],
        depends=HEADERS,
        define_macros=[("CYTHON_TRACE_NOGIL", "1")] if TRACE else [],
        libraries=["dl"] if sys.platform == "linux" else [],  # a library of its own before glibc 2.34
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    made.cython_directives = DIRECTIVES
    return made


# The compiled part is POSIX; without it, on Windows, jobs are inserted and managed but not worked.
EXTENSIONS = [] if sys.platform == "win32" else [extension("fetcher"), extension("completer")]

setup(ext_modules=EXTENSIONS, cmdclass={"build_ext": BuildExt})
