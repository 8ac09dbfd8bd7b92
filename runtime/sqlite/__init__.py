"""The embedded store: nodes, pools and grants in one SQLite file that several processes of one machine may use at once.

location → schema → connection: where the file is, what is in it, how it is opened and written.
values, rows, blocks: rows as values, and the grants with their overlap check.
pools, store: `SqliteStore`, blocking; what the command line uses. watch: what changed since the last look.
worker, adapter: `AsyncSqliteStore`, the operator's `Store` over one worker thread. lease: which operator leads.

Promises: what was acknowledged is on disk (WAL, `synchronous=FULL`, an answer only after the commit); no two grants overlap
(checked in the writing transaction); readers never block a writer. Every write of a node takes the next number of one
counter, which is the node's version, so a version never comes back, not even for a node that was deleted and added again.
"""
