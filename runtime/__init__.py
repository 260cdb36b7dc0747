"""The effects of one process: devices, links, time, files."""
