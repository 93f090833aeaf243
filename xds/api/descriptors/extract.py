#!/usr/bin/env python3
"""Read Envoy's API descriptors out of an Envoy binary.

usage: extract.py ENVOY_BINARY OUT.binpb

A C++ program that uses protobuf carries a serialised FileDescriptorProto of each .proto file it was built from. This
looks for their beginnings (field 1, a path ending in ".proto"), measures each by walking its fields, and writes one
google.protobuf.FileDescriptorSet in which every file comes after the files it imports.
"""

import re
import sys

START = re.compile(rb"\x0a(.)([A-Za-z0-9_][A-Za-z0-9_/.\-]*?\.proto)", re.DOTALL)
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# What a FileDescriptorProto may contain: field number -> wire type.
FILE_FIELDS = {n: BYTES for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12)} | {n: VARINT for n in (10, 11, 14)}
NAME, IMPORT = 1, 3
LARGEST_FIELD = 1 << 21


def read_varint(data, at):
    value = 0
    for position in range(10):
        byte = data[at + position]
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, at + position + 1
    raise ValueError("not a varint")


def write_varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def file_fields(data, at):
    """Yield (number, value, end) of each field at `at`, as long as they can belong to one FileDescriptorProto."""
    first = True
    while True:
        try:
            key, body = read_varint(data, at)
            number = key >> 3
            if FILE_FIELDS.get(number) != key & 7 or (number == NAME) != first:
                return
            value, end = read_varint(data, body)
            if key & 7 == BYTES:
                if value > LARGEST_FIELD or end + value > len(data):
                    return
                value, end = data[end : end + value], end + value
        except (ValueError, IndexError):
            return
        yield number, value, end
        at, first = end, False


def find_files(data):
    """name -> (bytes, imports); where a name occurs more than once, the longest wins."""
    files = {}
    for match in START.finditer(data):
        name = match.group(2)
        if match.group(1)[0] != len(name):
            continue
        imports, end = [], match.start()
        for number, value, end in file_fields(data, match.start()):
            if number == IMPORT:
                imports.append(value.decode())
        found = data[match.start() : end]
        if len(found) > max(len(name) + 10, len(files.get(name.decode(), (b"", 0))[0])):
            files[name.decode()] = (found, imports)
    return files


def in_import_order(files):
    """The names, each after those it imports; ties by name, so the output depends on the binary alone."""
    done, order = set(), []

    def visit(name):
        if name in done or name not in files:
            return
        done.add(name)
        for imported in sorted(files[name][1]):
            visit(imported)
        order.append(name)

    for name in sorted(files):
        visit(name)
    return order


def main():
    binary, out = sys.argv[1:]
    with open(binary, "rb") as handle:
        files = find_files(handle.read())
    missing = {imported for _, imports in files.values() for imported in imports} - files.keys()
    with open(out, "wb") as handle:
        for name in in_import_order(files):
            handle.write(b"\x0a" + write_varint(len(files[name][0])) + files[name][0])
    print(f"{len(files)} files, imports that are not among them: {sorted(missing) or 'none'}")


if __name__ == "__main__":
    main()
