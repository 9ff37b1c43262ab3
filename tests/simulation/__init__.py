"""The engine on a simulated log, broken in every way that `fold.md` allows for."""
