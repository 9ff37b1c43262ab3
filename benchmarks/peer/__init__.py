"""The real server that Odradek is compared with: installing, starting and stopping it."""
