"""The node's agent: addresses for pods out of the blocks that the operator grants this node.

journal, commits: reservations on disk, many in one commit, each answered after it. service: attachments, waiting ones among them.
http, api: the unix socket and what is served on it. selection: which pool a pod gets. leaks: reservations of pods that are gone.
side, kube_side, sqlite_side: the node's object: blocks in, demand out. publisher: when that is written. agent: one agent's course.
"""
