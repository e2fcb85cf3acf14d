"""Map, embed, polygons, export and serve: using a model on any scene."""
