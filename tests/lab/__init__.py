# SPDX-License-Identifier: MIT
"""A small internet of network namespaces with the real daemons in it, for the demo and the tests."""
from .net import Net, Namespace
from .proc import Proc, LabError
from .system import System

__all__ = ["Net", "Namespace", "Proc", "LabError", "System"]
