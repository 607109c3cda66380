/* The inner loops that every message passes through: over the bytes of a payload, the frames of a buffer, the
 * elements of a value, the keys of a request.
 *
 * Optional: each function here has a twin in Python in the file that calls it, and tests hold the two equal;
 * webmesh/protocol/speedups.py decides which are used. Nothing here runs code of a user's or a peer's. Only the
 * stable ABI of CPython 3.11 is used, so that one build serves all later versions where the build asks for that
 * (Py_LIMITED_API).
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define REVISION 5 /* of what stands here; webmesh/protocol/speedups.py takes no other */

#define MAX_ID ((1LL << 53) - 1)
#define KEY_SIZE 4
#define TEXT 0x81
#define BINARY 0x82
#define LONGEST_HEAD 8 /* of a masked frame with a 16-bit length; longer ones are not for read_run */

/* Bytes from which other threads may run meanwhile: giving the lock away and taking it back costs more
 * than masking fewer (about 20 us for so many). */
#define RELEASE_FROM (256 * 1024)

static void
xor_with_key(unsigned char *to, const unsigned char *from, Py_ssize_t size, const unsigned char *key)
{
    uint32_t key_word;
    uint64_t pattern, word;
    Py_ssize_t at = 0;

    memcpy(&key_word, key, KEY_SIZE);
    pattern = ((uint64_t)key_word << 32) | key_word;
    /* memcpy, because neither side need be aligned; it compiles to plain loads and stores. */
    for (; at + 32 <= size; at += 32) {
        uint64_t words[4];
        memcpy(words, from + at, 32);
        words[0] ^= pattern;
        words[1] ^= pattern;
        words[2] ^= pattern;
        words[3] ^= pattern;
        memcpy(to + at, words, 32);
    }
    for (; at + 8 <= size; at += 8) {
        memcpy(&word, from + at, 8);
        word ^= pattern;
        memcpy(to + at, &word, 8);
    }
    for (; at < size; at++) {
        to[at] = from[at] ^ key[at & 3];
    }
}

/* A new bytes object: *size* bytes at *from*, masked. The caller holds the buffers. */
static PyObject *
masked(const unsigned char *from, Py_ssize_t size, const unsigned char *key)
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, size);
    unsigned char *to;

    if (result == NULL) {
        return NULL;
    }
    to = (unsigned char *)PyBytes_AsString(result);
    if (size < RELEASE_FROM) {
        xor_with_key(to, from, size, key);
    }
    else {
        Py_BEGIN_ALLOW_THREADS
        xor_with_key(to, from, size, key);
        Py_END_ALLOW_THREADS
    }
    return result;
}

PyDoc_STRVAR(mask_doc,
"mask(data, key, /)\n--\n\nXOR data with the four bytes of key, repeated.");

static PyObject *
mask(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data, key;
    PyObject *result = NULL;

    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "mask() takes 2 arguments (%zd given)", count);
    }
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(args[1], &key, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    if (key.len != KEY_SIZE) {
        PyErr_Format(PyExc_ValueError, "a masking key has 4 bytes, not %zd", key.len);
    }
    else {
        result = masked(data.buf, data.len, key.buf);
    }
    PyBuffer_Release(&key);
    PyBuffer_Release(&data);
    return result;
}

PyDoc_STRVAR(unmask_doc,
"unmask(frame, start, stop, /)\n--\n\n"
"The payload of a masked frame whose key stands at start, followed by the payload up to stop.");

static PyObject *
unmask(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_buffer frame;
    Py_ssize_t start, stop;
    PyObject *result = NULL;

    if (count != 3) {
        return PyErr_Format(PyExc_TypeError, "unmask() takes 3 arguments (%zd given)", count);
    }
    start = PyLong_AsSsize_t(args[1]);
    if (start == -1 && PyErr_Occurred()) {
        return NULL;
    }
    stop = PyLong_AsSsize_t(args[2]);
    if (stop == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &frame, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (start < 0 || stop > frame.len || stop < KEY_SIZE || start > stop - KEY_SIZE) {
        PyErr_Format(PyExc_ValueError, "no key and payload from %zd to %zd in %zd bytes", start, stop, frame.len);
    }
    else {
        const unsigned char *key = (const unsigned char *)frame.buf + start;
        result = masked(key + KEY_SIZE, stop - start - KEY_SIZE, key);
    }
    PyBuffer_Release(&frame);
    return result;
}

/* *count* integers from *args* on; false with an exception set when one is none or does not fit. */
static int
read_sizes(PyObject *const *args, Py_ssize_t *sizes, int count)
{
    int at;

    for (at = 0; at < count; at++) {
        sizes[at] = PyLong_AsSsize_t(args[at]);
        if (sizes[at] == -1 && PyErr_Occurred()) {
            return 0;
        }
    }
    return 1;
}

/* The message in a frame's payload: bytes or text. *key* is NULL where it is not masked. */
static PyObject *
message_of(int first, const unsigned char *payload, Py_ssize_t size, const unsigned char *key)
{
    PyObject *bytes, *text;

    if (first == TEXT && key == NULL) {
        return PyUnicode_DecodeUTF8((const char *)payload, size, NULL);
    }
    bytes = key == NULL ? PyBytes_FromStringAndSize((const char *)payload, size) : masked(payload, size, key);
    if (bytes == NULL || first == BINARY) {
        return bytes;
    }
    text = PyUnicode_DecodeUTF8(PyBytes_AsString(bytes), size, NULL);
    Py_DECREF(bytes);
    return text;
}

PyDoc_STRVAR(read_run_doc,
"read_run(data, position, mask_bit, limit, most, received, /)\n--\n\n"
"Append the messages of whole plain frames to received; where the first frame begins that is none.");

static PyObject *
read_run(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_buffer data;
    Py_ssize_t sizes[4], position, limit, most;
    int mask_bit, failed = 0;

    if (count != 6) {
        return PyErr_Format(PyExc_TypeError, "read_run() takes 6 arguments (%zd given)", count);
    }
    if (!read_sizes(args + 1, sizes, 4) || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    position = sizes[0], mask_bit = (int)sizes[1], limit = sizes[2], most = sizes[3];
    while (position >= 0 && most-- > 0 && data.len - position >= LONGEST_HEAD) {
        const unsigned char *head = (const unsigned char *)data.buf + position, *payload = head + 2, *key = NULL;
        Py_ssize_t size = head[1] ^ mask_bit;
        PyObject *message;

        if (size == 126) {
            size = (Py_ssize_t)head[2] << 8 | head[3];
            payload += 2;
            if (size < 126) {
                break;
            }
        }
        else if (size > 126) {
            break;
        }
        if (mask_bit) {
            key = payload;
            payload += KEY_SIZE;
        }
        if ((head[0] != BINARY && head[0] != TEXT) || size == 0 || size > limit
            || size > data.len - (payload - (const unsigned char *)data.buf)) {
            break;
        }
        message = message_of(head[0], payload, size, key);
        failed = message == NULL || PyList_Append(args[5], message) < 0;
        Py_XDECREF(message);
        if (failed) {
            break;
        }
        position = payload + size - (const unsigned char *)data.buf;
    }
    PyBuffer_Release(&data);
    return failed ? NULL : PyLong_FromSsize_t(position);
}

PyDoc_STRVAR(whole_frame_doc,
"whole_frame(first, payload, /)\n--\n\nAn unmasked frame with that first byte.");

static PyObject *
whole_frame(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t first, head_size, at, left, size;
    PyObject *frame;
    unsigned char *to;
    char *payload;

    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "whole_frame() takes 2 arguments (%zd given)", count);
    }
    if (!read_sizes(args, &first, 1) || PyBytes_AsStringAndSize(args[1], &payload, &size) < 0) {
        return NULL;
    }
    head_size = size < 126 ? 2 : size < 65536 ? 4 : 10;
    frame = PyBytes_FromStringAndSize(NULL, head_size + size);
    if (frame == NULL) {
        return NULL;
    }
    to = (unsigned char *)PyBytes_AsString(frame);
    to[0] = (unsigned char)first;
    to[1] = (unsigned char)(size < 126 ? size : size < 65536 ? 126 : 127);
    for (at = head_size - 1, left = size; at > 1; at--, left >>= 8) {
        to[at] = (unsigned char)left;
    }
    memcpy(to + head_size, payload, size);
    return frame;
}

/* Whether a byte may begin a msgpack map, list, bytes or float, wherever it stands. */
static int
is_mark(unsigned char byte)
{
    return byte >= 0x80 && (byte < 0xA0 || (byte >= 0xC4 && byte <= 0xC6) || byte == 0xCA || byte == 0xCB
        || (byte >= 0xDC && byte <= 0xDF));
}

PyDoc_STRVAR(msgpack_marks_doc,
"msgpack_marks(data, /)\n--\n\nThose bytes of data that may begin a msgpack map, list, bytes or float.");

static PyObject *
msgpack_marks(PyObject *Py_UNUSED(module), PyObject *data)
{
    PyObject *marks;
    Py_ssize_t at, size, found = 0;
    const char *from;
    char *bytes, *to;

    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0) {
        return NULL;
    }
    for (at = 0; at < size; at++) {
        found += is_mark((unsigned char)bytes[at]);
    }
    marks = PyBytes_FromStringAndSize(NULL, found);
    if (marks == NULL) {
        return NULL;
    }
    to = PyBytes_AsString(marks);
    for (from = bytes; found > 0; from++) {
        if (is_mark((unsigned char)*from)) {
            *to++ = *from;
            found--;
        }
    }
    return marks;
}

/* Whether *value* is of one of *scalars*, a set of types. A type whose own type is another than `type` could answer
 * with code of its own; it is none of them. */
static int
is_scalar(PyObject *value, PyObject *scalars)
{
    PyObject *kind = (PyObject *)Py_TYPE(value);

    return Py_IS_TYPE(kind, &PyType_Type) && PySet_Contains(scalars, kind) > 0;
}

static Py_ssize_t spare_items_of(PyObject *root, PyObject *scalars, Py_ssize_t depth, Py_ssize_t items);

/* What is left of *items* after *value*, which stands in a map or list. */
static Py_ssize_t
spare_items_after(PyObject *value, PyObject *scalars, Py_ssize_t depth, Py_ssize_t items)
{
    if (is_scalar(value, scalars)) {
        return items;
    }
    if (Py_EnterRecursiveCall(" while looking at a value")) {
        return -2;
    }
    items = spare_items_of(value, scalars, depth, items);
    Py_LeaveRecursiveCall();
    return items;
}

/* See webmesh/protocol/values.py; -2 with an exception set. Borrows all references: the lock is never let go of. */
static Py_ssize_t
spare_items_of(PyObject *root, PyObject *scalars, Py_ssize_t depth, Py_ssize_t items)
{
    Py_ssize_t at = 0, size;
    PyObject *key, *value;

    if (PyDict_CheckExact(root)) {
        items -= PyDict_Size(root);
        if (items < 0 || depth == 0) {
            return -1;
        }
        while (items >= 0 && PyDict_Next(root, &at, &key, &value)) {
            items = PyUnicode_CheckExact(key) ? spare_items_after(value, scalars, depth - 1, items) : -1;
        }
        return items;
    }
    if (!PyList_CheckExact(root) && !PyTuple_CheckExact(root)) {
        return -1;
    }
    size = PySequence_Size(root);
    items -= size;
    if (items < 0 || depth == 0) {
        return -1;
    }
    for (; items >= 0 && at < size; at++) {
        value = PyList_CheckExact(root) ? PyList_GetItem(root, at) : PyTuple_GetItem(root, at);
        items = spare_items_after(value, scalars, depth - 1, items);
    }
    return items;
}

PyDoc_STRVAR(spare_items_doc,
"spare_items(root, scalars, depth, items, /)\n--\n\n"
"How many more elements root might hold, or a negative number when it needs a closer look.");

static PyObject *
spare_items(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t bounds[2], spare;

    if (count != 4) {
        return PyErr_Format(PyExc_TypeError, "spare_items() takes 4 arguments (%zd given)", count);
    }
    if (!read_sizes(args + 2, bounds, 2)) {
        return NULL;
    }
    if (!PyFrozenSet_Check(args[1])) {
        return PyErr_Format(PyExc_TypeError, "spare_items() takes a frozenset of types");
    }
    spare = is_scalar(args[0], args[1]) ? 0 : spare_items_of(args[0], args[1], bounds[0], bounds[1]);
    return spare == -2 ? NULL : PyLong_FromSsize_t(spare);
}

/* Whether *path* is 1 to *most* characters of printable ASCII. */
static int
is_plain_path(PyObject *path, Py_ssize_t most)
{
    Py_ssize_t at, size;

    if (!PyUnicode_CheckExact(path)) {
        return 0;
    }
    size = PyUnicode_GetLength(path);
    if (size < 1 || size > most) {
        return 0;
    }
    for (at = 0; at < size; at++) {
        Py_UCS4 character = PyUnicode_ReadChar(path, at);
        if (character < 0x20 || character > 0x7E) {
            return 0;
        }
    }
    return 1;
}

/* Whether *id* is an integer that a peer may count its requests with. */
static int
is_plain_id(PyObject *id)
{
    long long number;
    int overflow;

    if (!PyLong_CheckExact(id)) {
        return 0;
    }
    number = PyLong_AsLongLongAndOverflow(id, &overflow);
    return !overflow && number >= 0 && number <= MAX_ID;
}

PyDoc_STRVAR(plain_request_doc,
"plain_request(message, path_size, headers, /)\n--\n\n"
"Path, id, data, timeout_ms and headers of a map that is surely a valid request with nothing else; None for any other.");

/* Whether *value* is a number from 0 to MAX_ID. */
static int
is_plain_amount(PyObject *value)
{
    double number;

    if (!PyFloat_CheckExact(value)) {
        return is_plain_id(value);
    }
    number = PyFloat_AsDouble(value);
    return number >= 0 && number <= (double)MAX_ID;
}

/* Whether *headers* is a map of at most *most* texts to texts. */
static int
is_plain_headers(PyObject *headers, Py_ssize_t most)
{
    PyObject *name, *text;
    Py_ssize_t at = 0;

    if (!PyDict_CheckExact(headers) || PyDict_Size(headers) > most) {
        return 0;
    }
    while (PyDict_Next(headers, &at, &name, &text)) {
        if (!PyUnicode_CheckExact(name) || !PyUnicode_CheckExact(text)) {
            return 0;
        }
    }
    return 1;
}

static PyObject *
plain_request(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    PyObject *key, *value, *path = NULL, *id = NULL, *data = NULL, *timeout = NULL, *headers = NULL;
    Py_ssize_t at = 0, sizes[2];

    if (count != 3 || !PyDict_CheckExact(args[0])) {
        return PyErr_Format(PyExc_TypeError, "plain_request() takes a map and two sizes");
    }
    if (!read_sizes(args + 1, sizes, 2)) {
        return NULL;
    }
    while (PyDict_Next(args[0], &at, &key, &value)) {
        if (!PyUnicode_CheckExact(key)) {
            Py_RETURN_NONE;
        }
        if (PyUnicode_CompareWithASCIIString(key, "path") == 0) {
            path = value;
        }
        else if (PyUnicode_CompareWithASCIIString(key, "id") == 0) {
            id = value;
        }
        else if (PyUnicode_CompareWithASCIIString(key, "data") == 0) {
            data = value;
        }
        else if (PyUnicode_CompareWithASCIIString(key, "timeout_ms") == 0) {
            timeout = value;
        }
        else if (PyUnicode_CompareWithASCIIString(key, "headers") == 0) {
            headers = value;
        }
        else {
            Py_RETURN_NONE;
        }
    }
    if (path == NULL || id == NULL || data == NULL || !is_plain_id(id) || !is_plain_path(path, sizes[0])) {
        Py_RETURN_NONE;
    }
    if ((timeout != NULL && !is_plain_amount(timeout)) || (headers != NULL && !is_plain_headers(headers, sizes[1]))) {
        Py_RETURN_NONE;
    }
    return PyTuple_Pack(
        5, path, id, data, timeout == NULL ? Py_None : timeout, headers == NULL ? Py_None : headers);
}

static PyMethodDef methods[] = {
    {"mask", (PyCFunction)(void (*)(void))mask, METH_FASTCALL, mask_doc},
    {"unmask", (PyCFunction)(void (*)(void))unmask, METH_FASTCALL, unmask_doc},
    {"read_run", (PyCFunction)(void (*)(void))read_run, METH_FASTCALL, read_run_doc},
    {"whole_frame", (PyCFunction)(void (*)(void))whole_frame, METH_FASTCALL, whole_frame_doc},
    {"msgpack_marks", msgpack_marks, METH_O, msgpack_marks_doc},
    {"spare_items", (PyCFunction)(void (*)(void))spare_items, METH_FASTCALL, spare_items_doc},
    {"plain_request", (PyCFunction)(void (*)(void))plain_request, METH_FASTCALL, plain_request_doc},
    {NULL, NULL, 0, NULL},
};

static int
tell_revision(PyObject *module)
{
    return PyModule_AddIntConstant(module, "REVISION", REVISION);
}

/* Py_mod_gil is not there: without the lock another thread could change a value while `spare_items` walks it. */
static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, tell_revision},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "webmesh._speedups",
    .m_doc = "Inner loops in C; see webmesh.protocol.speedups.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&module);
}
