"""Several models that answer at once: replicas in other processes and on other machines, through Ray Serve.

Only `ray_serve.py` and `replica.py` use Ray, which is an optional package.
"""
