"""From videos to graphs: a model describes clip by clip; names are linked and the graph refined."""
