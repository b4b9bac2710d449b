// Attention of one query per row over rows of different lengths, whose keys and values are read where they lie.
//
// Logits, weights and sums are float32, whatever the tensors hold. Each KV head of each row is computed by itself, block
// by block of its entries under a running maximum, so that its bits depend on nothing but its own entries.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

constexpr int WIDTH = 16;  // floats of a vector; a processor with narrower ones takes several
constexpr int BLOCK = 32;  // entries of a row whose weights are found at once
constexpr int MOST = 256;  // channels of a head
constexpr int GROUP = 4;   // queries that share an entry while it is at hand

typedef float Vector __attribute__((vector_size(WIDTH * 4)));
typedef float HalfVector __attribute__((vector_size(WIDTH * 2)));
typedef float QuarterVector __attribute__((vector_size(WIDTH)));
typedef int32_t Integers __attribute__((vector_size(WIDTH * 4)));

struct Bfloat16 {
    uint16_t bits;
};

template <typename To, typename From> inline To as(const From &from) {
    static_assert(sizeof(To) == sizeof(From), "another size");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

inline Vector load(const float *from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof(vector));
    return vector;
}

inline void store(float *to, Vector vector) { std::memcpy(to, &vector, sizeof(vector)); }

inline float sum(Vector vector) {
    struct Halves { HalfVector low, high; } halves = as<Halves>(vector);
    struct Quarters { QuarterVector low, high; } quarters = as<Quarters>(HalfVector(halves.low + halves.high));
    QuarterVector four = quarters.low + quarters.high;
    return (four[0] + four[2]) + (four[1] + four[3]);
}

inline float widened(float value) { return value; }

inline float widened(Bfloat16 value) { return as<float>(uint32_t(value.bits) << 16); }

inline void narrow(float value, float *to) { *to = value; }

// To the nearest, of two to the even one.
inline void narrow(float value, Bfloat16 *to) {
    uint32_t bits = as<uint32_t>(value);
    to->bits = value != value ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// `count` channels as floats, with zeros up to `padded`: where they lie if they are that already, else in `room`.
template <typename T> inline const float *widen(const T *from, int64_t count, int64_t padded, float *room) {
    if constexpr (std::is_same_v<T, float>)
        if (count == padded) return from;
    for (int64_t i = 0; i < count; i++) room[i] = widened(from[i]);
    for (int64_t i = count; i < padded; i++) room[i] = 0;
    return room;
}

// Asks for channels before they are needed: short rows end before a processor has seen where its reading leads.
template <typename T> inline void fetch(const T *from, int64_t count) {
    for (int64_t byte = 0; byte < count * int64_t(sizeof(T)); byte += 64)
        __builtin_prefetch(reinterpret_cast<const char *>(from) + byte);
}

// e^x, x at most 0, to about a unit in the last place; 0 if that is below the smallest normal number.
// x = whole · ln 2 + rest, and e^rest is a polynomial of Cephes' expf (S. Moshier).
inline Vector exponential(Vector x) {
    Vector shifted = x * 1.44269504f + 12582912.0f;  // the whole number is in the low bits
    Vector whole = shifted - 12582912.0f;
    Vector rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Vector power = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    power *= as<Vector>(Integers((as<Integers>(shifted) + (127 - 0x4b400000)) << 23));
    return x < -87.0f ? Vector{} : power;
}

// softcap · tanh(x / softcap)
inline Vector bounded(Vector x, float softcap) {
    Vector small = exponential((x < 0.0f ? x : -x) * (2.0f / softcap));
    Vector bounded = (1.0f - small) / (1.0f + small) * softcap;
    return x < 0.0f ? -bounded : bounded;
}

struct Head {
    int64_t group, dim, value_dim;
    int64_t key_stride, value_stride;  // from an entry to the next
    float scaling, softcap;            // softcap 0: logits are not bounded
};

inline int64_t padded(int64_t dim) { return (dim + WIDTH - 1) / WIDTH * WIDTH; }

// The logits of n queries with the keys of a block; behind the last key they are minus infinity.
template <typename T>
[[gnu::always_inline]] inline void find_logits(const T *keys, const T *values, int count, const Head &h,
                                               const float queries[][MOST], int n, float logits[][BLOCK]) {
    float room[MOST];
    int64_t dim = padded(h.dim);
    for (int i = 0; i < count; i++) {
        fetch(values + i * h.value_stride, h.value_dim);
        const float *key = widen(keys + i * h.key_stride, h.dim, dim, room);
        for (int g = 0; g < n; g++) {
            Vector products = load(key) * load(queries[g]);
            for (int64_t d = WIDTH; d < dim; d += WIDTH) products += load(key + d) * load(queries[g] + d);
            logits[g][i] = sum(products);
        }
    }
    for (int g = 0; g < n; g++) {
        for (int i = count; i < BLOCK; i++) logits[g][i] = 0;
        for (int i = 0; i < BLOCK && h.softcap > 0; i += WIDTH)
            store(logits[g] + i, bounded(load(logits[g] + i), h.softcap));
        for (int i = count; i < BLOCK; i++) logits[g][i] = -INFINITY;
    }
}

// Turns a block's logits into weights under the largest logit so far. Returns the factor for what was summed before.
inline float weigh(float *logits, float &largest, float &total) {
    float before = largest;
    for (int i = 0; i < BLOCK; i++) largest = logits[i] > largest ? logits[i] : largest;
    Vector added = {};
    for (int i = 0; i < BLOCK; i += WIDTH) {
        Vector weights = exponential(load(logits + i) - largest);
        store(logits + i, weights);
        added += weights;
    }
    float factor = before == -INFINITY ? 0 : std::exp(before - largest);
    total = total * factor + sum(added);
    return factor;
}

// Adds weighted values to sums, N vectors of channels side by side, since one alone would wait for itself.
template <int N>
inline void accumulate(const float *values, int64_t stride, const float *weights, int count, float factor,
                       float *sums) {
    Vector sum[N];
    for (int k = 0; k < N; k++) sum[k] = load(sums + k * WIDTH) * factor;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < N; k++) sum[k] += weights[i] * load(values + i * stride + k * WIDTH);
    for (int k = 0; k < N; k++) store(sums + k * WIDTH, sum[k]);
}

// A KV head's queries [group, dim] over `length` entries, to out [group, value_dim]. following: keys that are read next.
template <typename T>
[[gnu::always_inline]] inline void attend(const T *queries, const T *keys, const T *values, const T *following, T *out,
                                          int64_t length, const Head &h) {
    float wide[GROUP][MOST], sums[GROUP][MOST], logits[GROUP][BLOCK], largest[GROUP], total[GROUP];
    float room[BLOCK * MOST];
    int64_t dim = padded(h.dim), value_dim = padded(h.value_dim);
    for (int64_t first = 0; first < h.group; first += GROUP) {
        int n = int(h.group - first < GROUP ? h.group - first : GROUP);
        for (int g = 0; g < n; g++) {
            for (int64_t d = 0; d < dim; d++)
                wide[g][d] = d < h.dim ? widened(queries[(first + g) * h.dim + d]) * h.scaling : 0;
            for (int64_t d = 0; d < value_dim; d++) sums[g][d] = 0;
            largest[g] = -INFINITY;
            total[g] = 0;
        }
        for (int64_t start = 0; start < length; start += BLOCK) {
            int count = int(length - start < BLOCK ? length - start : BLOCK);
            const T *key = keys + start * h.key_stride, *value = values + start * h.value_stride;
            const T *next = start + BLOCK < length ? key + BLOCK * h.key_stride : following;
            find_logits(key, value, count, h, wide, n, logits);
            const float *block = widen(value, h.value_dim, value_dim, room);
            int64_t stride = block == room ? value_dim : h.value_stride;
            for (int i = 0; i < count; i++) {
                fetch(next + i * h.key_stride, h.dim);
                widen(value + i * h.value_stride, h.value_dim, value_dim, room + i * value_dim);
            }
            for (int g = 0; g < n; g++) {
                float factor = weigh(logits[g], largest[g], total[g]);
                int64_t d = 0;
                for (; d + 4 * WIDTH <= value_dim; d += 4 * WIDTH)
                    accumulate<4>(block + d, stride, logits[g], count, factor, sums[g] + d);
                for (; d < value_dim; d += WIDTH)
                    accumulate<1>(block + d, stride, logits[g], count, factor, sums[g] + d);
            }
        }
        for (int g = 0; g < n; g++)
            for (int64_t d = 0; d < h.value_dim; d++)
                narrow(sums[g][d] / total[g], out + (first + g) * h.value_dim + d);
    }
}

struct Rows {
    int64_t rows, heads, window;  // window 0: all entries are visible
    int64_t key_row, key_head, value_row, value_head;
    const int32_t *lengths;
};

// DIM: channels of a key and a value if the compiler shall know them, else 0.
template <typename T, int64_t DIM>
void attend_rows(const T *queries, const T *keys, const T *values, T *out, const Rows &r, Head h, int threads) {
    if (DIM) h.dim = h.value_dim = DIM;
#pragma omp parallel for schedule(dynamic, 2) num_threads(threads) firstprivate(h)
    for (int64_t i = 0; i < r.rows * r.heads; i++) {
        if (DIM) h.dim = h.value_dim = DIM;
        int64_t row = i / r.heads, head = i % r.heads, length = r.lengths[row];
        int64_t hidden = r.window && length > r.window ? length - r.window : 0;
        const T *own = keys + row * r.key_row + head * r.key_head + hidden * h.key_stride;
        const T *value = values + row * r.value_row + head * r.value_head + hidden * h.value_stride;
        const T *following = keys + (i + 1) / r.heads * r.key_row + (i + 1) % r.heads * r.key_head;
        attend(queries + i * h.group * h.dim, own, value, following, out + i * h.group * h.value_dim, length - hidden,
               h);
    }
}

template <typename T>
void attend_rows_of(const void *queries, const void *keys, const void *values, void *out, const Rows &r, const Head &h,
                    int threads) {
    auto of_dim = h.dim != h.value_dim ? attend_rows<T, 0>
                  : h.dim == 64        ? attend_rows<T, 64>
                  : h.dim == 128       ? attend_rows<T, 128>
                                       : attend_rows<T, 0>;
    of_dim(static_cast<const T *>(queries), static_cast<const T *>(keys), static_cast<const T *>(values),
           static_cast<T *>(out), r, h, threads);
}

}  // namespace

// queries [rows, heads, group, dim] and out [rows, heads, group, value_dim], contiguous; keys [rows, heads, capacity,
// dim] and values [rows, heads, capacity, value_dim] with the channels of an entry side by side; lengths [rows], each at
// least 1. sizes: rows, heads, group, dim, value_dim, window; the strides of keys by row, head and entry, in elements;
// those of values.
extern "C" void fairkv_attend_rows(int bfloat16, const void *queries, const void *keys, const void *values, void *out,
                                   const int32_t *lengths, const int64_t *sizes, float scaling, float softcap,
                                   int threads) {
    Rows rows = {sizes[0], sizes[1], sizes[5], sizes[6], sizes[7], sizes[9], sizes[10], lengths};
    Head head = {sizes[2], sizes[3], sizes[4], sizes[8], sizes[11], scaling, softcap};
    auto attend = bfloat16 ? attend_rows_of<Bfloat16> : attend_rows_of<float>;
    attend(queries, keys, values, out, rows, head, threads);
}
