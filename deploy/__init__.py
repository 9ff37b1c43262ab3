"""What runs Odradek and the parts it stands on."""
