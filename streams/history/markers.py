"""What workflows note about themselves: markers, search attributes, memo."""
