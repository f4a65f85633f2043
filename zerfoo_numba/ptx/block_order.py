"""The order of basic blocks: topological, every loop contiguous, and its exits after it.

Running the lowest pending block first then brings diverged threads together again at the
earliest point where their paths meet.
"""


def in_order(blocks):
    """The blocks that can be reached, in that order, their targets renumbered."""
    order = _order(range(len(blocks)), 0, blocks, loops(blocks))
    place = {old: new for new, old in enumerate(order)}
    for old in order:
        blocks[old].targets = tuple(place[t] for t in blocks[old].targets)
    return [blocks[old] for old in order]


def _postorder(start, successors):
    order, seen, stack = [], {start}, [(start, iter(successors(start)))]
    while stack:
        node, rest = stack[-1]
        following = next((s for s in rest if s not in seen), None)
        if following is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(successors(following))))
    return order


def loops(blocks):
    """Natural loops: header -> set of blocks (Aho et al., Compilers, section 9.6)."""
    order = _postorder(0, lambda b: blocks[b].targets)[::-1]
    before = {b: [] for b in order}
    for p in order:
        for b in set(blocks[p].targets):
            before[b].append(p)
    # Sets of blocks as bits: kernels of thousands of blocks have sets as large.
    dominators = dict.fromkeys(order, -1)
    dominators[0] = 1
    changed = True
    while changed:
        changed = False
        for b in order[1:]:
            new = -1
            for p in before[b]:
                new &= dominators[p]
            new |= 1 << b
            changed |= new != dominators[b]
            dominators[b] = new
    found = {}
    for b in order:
        for header in [t for t in sorted(set(blocks[b].targets)) if dominators[b] >> t & 1]:
            members, stack = found.setdefault(header, {header}), [b]
            while stack:
                node = stack.pop()
                if node not in members:
                    members.add(node)
                    stack += before[node]
    return found


def _order(nodes, head, blocks, found):
    """Reverse postorder from `head` within `nodes`, each inner loop as one node, recursively."""
    nodes = set(nodes)
    inner = {h: m for h, m in found.items() if h != head and m <= nodes}
    outermost = [h for h in inner if not any(h in inner[o] for o in inner if o != h)]
    place = {n: n for n in nodes} | {m: h for h in outermost for m in inner[h]}

    def successors(node):
        members = inner[node] if node in outermost else {node}
        found = [t for m in sorted(members) for t in blocks[m].targets if t != head]
        return [place[t] for t in found if t in nodes and t not in members]

    order = _postorder(place[head], successors)[::-1]
    return [
        b for n in order for b in (_order(inner[n], n, blocks, found) if n in outermost else [n])
    ]
