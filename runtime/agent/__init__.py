"""The node's agent: addresses for pods out of the blocks that the operator grants this node.

journal, commits: reservations on disk, many in one commit, each answered after it; records: what the file holds,
state_files: how it is made, and exchanged when damaged. service: attachments, waiting ones among them.
http, api: the unix socket and what is served on it. selection: which pool a pod gets. leaks: reservations of pods that are gone.
side, kube_object, kube_side, cloud_side, sqlite_side: the node's object: capacity in, demand out. half, interfaces: what is taken from
it and what it should say, where blocks are granted and where addresses are the interfaces'. publisher: when that is written.
instance: what the machine is in its cloud. agent: one agent's course.
"""
