"""Between clients and engines: journals, routing, limits and metrics."""
