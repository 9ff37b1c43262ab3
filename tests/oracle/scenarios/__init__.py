"""One module a group; a group in several modules has them named `group__part`."""
