"""The engine: sources in, shards of Samples out; sharded, resumable, and the same bytes every time.

recipe.py says what is to be made, jobs.py which jobs that takes, local.py and cluster.py run them, files.py keeps what
is done. The jobs themselves: inputs.py (sources into shards), build.py (a builder and its writer), publish.py (filters,
final shards), finish.py (yields, words, card).
"""
