"""The HTTP service in OpenAI's form: endpoints, errors, event streams, and its server."""
