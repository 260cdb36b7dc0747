"""Jobs and services that a Ray cluster runs by itself."""
