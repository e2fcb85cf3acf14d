"""The demo: one page, one chapter per room, all on the simulated Earth."""
