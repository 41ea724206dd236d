"""UniPic2-Metaquery (Skywork 2025)."""
