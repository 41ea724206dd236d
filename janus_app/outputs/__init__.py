"""What is kept on disk: pictures with their metadata, conversations, votes, presets."""
