"""The demo: the main job on three nodes under live traffic, measured.

completion   the service: a program of its own, which knows nothing but its view
gazetteer    builds its data: a program of its own; builder holds it, editions are the releases
traffic      the client: a program of its own; crowd holds it
stage        the cluster, the replicas, commands, uploads
harm         kills a download, wipes a node
world        what is seen of the cluster; sight: what is seen of its files
story        the scenes, in their order; show: how they look
figures      what was measured, and the verdict
command      `hydra dev demo`
"""
