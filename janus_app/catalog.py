"""Kept for scripts that were exported by earlier versions; new code imports `janus_app` itself."""

from janus_app.registry.catalog import Catalog, load_catalog

__all__ = ["Catalog", "load_catalog"]
