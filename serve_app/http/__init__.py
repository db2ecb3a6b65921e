"""The HTTP side: routes, bodies, problems. Knows the engine, not Ray.

Import from its modules: replicas of steps need only a small part, and importing all of it takes half a second.
"""
