"""Between clients and engines: journals, routing, limits, metrics."""
