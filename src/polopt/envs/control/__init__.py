"""Environments of control: cart-pole, pendulum, a walking robot, and those of gymnasium.

Importing this registers ``polopt/BipedWalk-v0`` where gymnasium is installed.
"""

from importlib.util import find_spec

if find_spec("gymnasium") is not None:
    from polopt.envs.control.biped.gymnasium_environment import register

    register()
