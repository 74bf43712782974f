"""The tests; a package, so that all of them can import what they share."""
