"""Training and measuring: an experiment's objects, the one loop, its steps, and measuring at a point."""
