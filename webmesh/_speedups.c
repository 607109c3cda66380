/* Masking of WebSocket payloads (RFC 6455 section 5.3), word by word.
 *
 * Optional: webmesh/protocol/masking.py holds the same two functions in Python and decides which are
 * used; tests/protocol/test_masking.py holds them equal. Only the stable ABI of CPython 3.11 is used,
 * so that one build serves all later versions where the build asks for that (Py_LIMITED_API).
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define KEY_SIZE 4

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

static PyMethodDef methods[] = {
    {"mask", (PyCFunction)(void (*)(void))mask, METH_FASTCALL, mask_doc},
    {"unmask", (PyCFunction)(void (*)(void))unmask, METH_FASTCALL, unmask_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "webmesh._speedups",
    .m_doc = "Masking of WebSocket payloads in C; see webmesh.protocol.masking.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&module);
}
