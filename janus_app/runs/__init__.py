"""What can be done with drawing runs as a whole: grids over two settings, exports, prompts and styles. No widgets."""
