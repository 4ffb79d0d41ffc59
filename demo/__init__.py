"""The bundled sample of real runs, and the recorder that made it."""
