/* C[m,n] = alpha * A[m,k] B[k,n] + beta * C by blocks, after Goto & van de Geijn (2008) and Van Zee & van de Geijn (2015):
 * a block of A and one of B are packed into panels as f32, then tiles of C are computed by the micro-kernel. With few
 * rows (or columns: the product is then transposed) nothing is packed and the wide operand is read once, in place.
 *
 * Every element of C is summed over k in an order that depends on the shape alone, by one thread at a time. */
#include "kernel/cpu/gemm.h"

#include <stdatomic.h>

#include "base/memory.h"

#ifdef _OPENMP
#include <omp.h>
#endif

enum {
    DOT_ROWS = 32,           /* most rows of a product computed as dot products */
    DOT_COLS = 16,           /* columns of it in one task */
    DOT_DEPTH = 768,         /* most of their depth at once */
    STRIP = 4096,            /* sums that are kept at once for columns times rows, by adding up rows of B */
    COEF_DEPTH = 64,         /* coefficients widened at once for that */
    STRIP_PANELS = 4,        /* of B, that a thread packs for itself when B is very wide */
    SHALLOW = 32,            /* depth up to which C is the largest of the three */
    IN_PLACE_COLS = 96,      /* with more, packing A pays */
    IN_PLACE_ROWS = 128,     /* with more, packing B pays */
    CACHED_FLOATS = 1 << 17, /* of B, up to which products of few rows take its rows in tiles */
    PACKED_FLOATS = 2 << 20, /* of both operands, unless one kc needs more */
    MAX_GROUP = 8,
    COPY_DEPTH = 64,       /* of rows that are copied side by side */
    ALIASED = 1024,        /* rows as many floats apart compete for the same lines of a cache */
    MIN_TILES = 128,       /* tasks of a block, when it has so many tiles */
    MAX_WIDENED = 1 << 16, /* longest few rows that are copied */
    MAX_PANEL = 16,        /* largest panel_a */
    MAX_NR = 32,
    MAX_KC = 576,
};

/* Fewer multiplications than this for each thread are not worth waking it. */
static const int64_t thread_work = 1 << 18;

typedef struct matrix {
    float *data;
    int64_t row_stride, col_stride;
} matrix;

typedef struct product {
    const tn_gemm_kernel *kernel;
    matrix c;
    tn_operand a, b;
    float alpha, beta;
    int64_t m, n, k;
    int threads;
    atomic_llong next_pack, next_task;
    /* Blocks. */
    int64_t mc, nc, kc, packed_depth;
    float *packed_a, *packed_b;
    bool by_strips;              /* each thread packs the B that it uses */
    bool a_in_place, b_in_place; /* A and whole panels of B are read where they are */
    bool a_by_rows;              /* each task copies the rows of A that it uses next to each other */
    /* Few rows, for dot products: f32 [m, k]. */
    const float *few;
    int64_t few_stride;
} product;

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

/* `size` cut into equal blocks of at most `most`, each a multiple of `unit`. */
static int64_t even_block(int64_t size, int64_t most, int64_t unit) {
    int64_t blocks = (size + most - 1) / most;
    return round_up((size + blocks - 1) / blocks, unit);
}

static tn_operand part(tn_operand x, int64_t row, int64_t col) {
    x.data = (const char *)x.data + (row * x.row_stride + col * x.col_stride) * tn_dtype_size(x.dtype);
    return x;
}

static tn_operand transposed(tn_operand x) {
    return (tn_operand){x.data, x.dtype, x.col_stride, x.row_stride};
}

static _Thread_local struct {
    void *pages;
    size_t size;
} scratch;

void tn_gemm_release_scratch(void) {
    tn_pages_free(scratch.pages, scratch.size);
    scratch.pages = NULL;
    scratch.size = 0;
}

/* At least `count` floats that the calling thread owns until its next call, or NULL. */
static float *scratch_floats(int64_t count) {
    size_t size = (size_t)round_up(count * (int64_t)sizeof(float), 256 << 10);
    if (size > scratch.size) {
        tn_gemm_release_scratch();
        scratch.pages = tn_pages_alloc(size);
        if (scratch.pages)
            scratch.size = size;
    }
    return scratch.pages;
}

int tn_gemm_threads(bool parallel, int64_t m, int64_t n, int64_t k) {
#ifdef _OPENMP
    if (!parallel || omp_in_parallel())
        return 1;
    double useful = (double)m * (double)n * (double)k / (double)thread_work;
    int most = omp_get_max_threads();
    return useful >= most ? most : useful < 1 ? 1 : (int)useful;
#else
    (void)parallel, (void)m, (void)n, (void)k;
    return 1;
#endif
}

/* Of the team that works on the job, which may be smaller than was asked for. */
static int team_size(const product *job) {
#ifdef _OPENMP
    return job->threads > 1 ? omp_get_num_threads() : 1;
#else
    (void)job;
    return 1;
#endif
}

static int team_index(const product *job) {
#ifdef _OPENMP
    return job->threads > 1 ? omp_get_thread_num() : 0;
#else
    (void)job;
    return 0;
#endif
}

static void wait_for_all(const product *job) {
    if (job->threads > 1) {
#pragma omp barrier
    }
}

static int64_t take(atomic_llong *next) {
    return atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
}

static void run(product *job, void (*work)(product *)) {
    atomic_init(&job->next_pack, 0);
    atomic_init(&job->next_task, 0);
    if (job->threads == 1) {
        work(job);
        return;
    }
#pragma omp parallel num_threads(job->threads)
    work(job);
}

/* The part of C at (row, col) with the panels for it; depth from `depth_at`. */
typedef struct block {
    int64_t row, rows, col, cols, depth_at, depth;
} block;

static void pack_b(const product *job, const block *at, int64_t panel, float *packed) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t from = panel * kernel->nr, cols = smaller(at->cols - from, kernel->nr);
    if (!job->b_in_place || cols < kernel->nr)
        kernel->widen(packed + from * at->depth, kernel->nr, part(job->b, at->depth_at, at->col + from), at->depth, cols,
                      kernel->nr);
}

static void pack_a(product *job, const block *at, int64_t panel) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t from = panel * kernel->mr;
    kernel->widen(job->packed_a + panel * kernel->panel_a * at->depth, kernel->panel_a,
                  transposed(part(job->a, at->row + from, at->depth_at)), at->depth, smaller(at->rows - from, kernel->mr),
                  kernel->panel_a);
}

static void pack_panels(product *job, const block *at, bool with_b) {
    int64_t a_panels = job->a_in_place || job->a_by_rows ? 0 : (at->rows + job->kernel->mr - 1) / job->kernel->mr;
    int64_t b_panels = with_b ? (at->cols + job->kernel->nr - 1) / job->kernel->nr : 0;
    for (int64_t i; (i = take(&job->next_pack)) < a_panels + b_panels;) {
        if (i < b_panels)
            pack_b(job, at, i, job->packed_b);
        else
            pack_a(job, at, i - b_panels);
    }
}

/* Depth `from` to `from + depth` of panel j of B, and how far apart its rows are. */
static const float *panel_of_b(const product *job, const block *at, const float *packed, int64_t j, int64_t from,
                               int64_t *step) {
    const tn_gemm_kernel *kernel = job->kernel;
    if (job->b_in_place && at->cols - j * kernel->nr >= kernel->nr) {
        *step = job->b.row_stride;
        return part(job->b, at->depth_at + from, at->col + j * kernel->nr).data;
    }
    *step = kernel->nr;
    return packed + (j * at->depth + from) * kernel->nr;
}

typedef struct range {
    int64_t from, to;
} range;

/* The same of A, and how far apart a panel's rows and columns are. */
static const float *panel_of_a(const product *job, const block *at, int64_t i, int64_t from, int64_t *row, int64_t *step) {
    const tn_gemm_kernel *kernel = job->kernel;
    if (job->a_in_place) {
        *row = job->a.row_stride;
        *step = job->a.col_stride;
        return part(job->a, at->row + i * kernel->mr, at->depth_at + from).data;
    }
    *row = 1;
    *step = kernel->panel_a;
    return job->packed_a + (i * at->depth + from) * kernel->panel_a;
}

/* In pieces, so that all rows are fetched side by side. */
static void copy_rows(const tn_gemm_kernel *kernel, float *to, int64_t stride, tn_operand from, int64_t rows,
                      int64_t depth) {
    for (int64_t p = 0; p < depth; p += COPY_DEPTH) {
        int64_t piece = smaller(depth - p, COPY_DEPTH);
        kernel->widen(to + p, stride, part(from, 0, p), rows, piece, round_up(piece, kernel->panel_a));
    }
}

/* Tiles of C from panels of A and B, their depth in steps of kc. */
static void multiply_panels(const product *job, const block *at, const float *packed_b, range down, range across,
                            int64_t from) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t depth = smaller(at->depth - from, job->kc);
    float beta = at->depth_at + from ? 1.0f : job->beta, rows_of_a[MAX_PANEL * (MAX_KC + MAX_PANEL)];
    for (int64_t i = down.from; i < down.to; i++) {
        int64_t row = i * kernel->mr, rows = smaller(at->rows - row, kernel->mr), a_row, a_step;
        const float *a = rows_of_a;
        if (job->a_by_rows) {
            a_row = round_up(depth, kernel->panel_a);
            a_step = 1;
            copy_rows(kernel, rows_of_a, a_row, part(job->a, at->row + row, at->depth_at + from), rows, depth);
        } else {
            a = panel_of_a(job, at, i, from, &a_row, &a_step);
        }
        for (int64_t j = across.from; j < across.to; j++) {
            int64_t col = j * kernel->nr, b_step;
            const float *b = panel_of_b(job, at, packed_b, j, from, &b_step);
            float *c = job->c.data + (at->row + row) * job->c.row_stride + (at->col + col) * job->c.col_stride;
            int64_t cols = smaller(at->cols - col, kernel->nr);
            if (job->c.col_stride == 1)
                kernel->tile(c, job->c.row_stride, a, a_row, a_step, b, b_step, job->alpha, beta, rows, cols, depth);
            else
                kernel->tile_across(c, job->c.col_stride, a, a_row, a_step, b, b_step, job->alpha, beta, rows, cols, depth);
        }
    }
}

/* Tasks of up to 4 x 4 tiles, smaller when there would be too few to share out. With little depth C is the largest of the
 * three and is walked along its rows. */
static void multiply_block(product *job, const block *at) {
    int64_t a_panels = (at->rows + job->kernel->mr - 1) / job->kernel->mr;
    int64_t b_panels = (at->cols + job->kernel->nr - 1) / job->kernel->nr;
    bool shallow = at->depth <= SHALLOW;
    int64_t high = shallow ? 1 : 4, wide = shallow ? 16 : 4;
    if (job->a_by_rows) {
        high = 1;
        wide = b_panels;
    }
    while (!job->a_by_rows && high * wide > 1 && a_panels * b_panels < MIN_TILES * high * wide) {
        if (high >= wide)
            high /= 2;
        else
            wide /= 2;
    }
    int64_t down = (a_panels + high - 1) / high, across = (b_panels + wide - 1) / wide;
    for (int64_t i; (i = take(&job->next_task)) < down * across;) {
        range rows = {i % down * high, smaller(i % down * high + high, a_panels)};
        range cols = {i / down * wide, smaller(i / down * wide + wide, b_panels)};
        for (int64_t from = 0; from < at->depth; from += job->kc)
            multiply_panels(job, at, job->packed_b, rows, cols, from);
    }
}

/* Tasks of all rows and a strip of columns, each of which packs its own part of B and uses it while it is near. */
static void multiply_strips(product *job, const block *at) {
    const tn_gemm_kernel *kernel = job->kernel;
    float *packed_b = team_index(job) == 0 ? job->packed_b : scratch_floats(STRIP_PANELS * kernel->nr * at->depth);
    if (!packed_b)
        return;
    int64_t width = STRIP_PANELS * kernel->nr;
    for (int64_t col; (col = take(&job->next_task) * width) < at->cols;) {
        block strip = *at;
        strip.col += col;
        strip.cols = smaller(at->cols - col, width);
        range down = {0, (at->rows + kernel->mr - 1) / kernel->mr}, across = {0, (strip.cols + kernel->nr - 1) / kernel->nr};
        for (int64_t j = 0; j < across.to; j++)
            pack_b(job, &strip, j, packed_b);
        multiply_panels(job, &strip, packed_b, down, across, 0);
    }
}

/* Two counters of tasks, since a thread may still take from one while others take from the next. The leader resets each
 * while a barrier keeps everyone from it. */
static void run_blocks(product *job) {
    bool leader = team_index(job) == 0, first = true;
    for (int64_t j = 0; j < job->n; j += job->nc) {
        for (int64_t p = 0; p < job->k; p += job->packed_depth) {
            for (int64_t i = 0; i < job->m; i += job->mc) {
                block at = {i, smaller(job->m - i, job->mc),          j, smaller(job->n - j, job->nc),
                            p, smaller(job->k - p, job->packed_depth)};
                if (!first) {
                    wait_for_all(job);
                    if (leader)
                        atomic_store_explicit(&job->next_task, 0, memory_order_relaxed);
                }
                first = false;
                pack_panels(job, &at, i == 0 && !job->by_strips);
                wait_for_all(job);
                if (leader)
                    atomic_store_explicit(&job->next_pack, 0, memory_order_relaxed);
                if (job->by_strips)
                    multiply_strips(job, &at);
                else
                    multiply_block(job, &at);
            }
        }
    }
}

/* Sets the sizes of blocks from the shape alone. Returns the floats of packed A; those of B follow them. */
static int64_t choose_blocks(product *job) {
    const tn_gemm_kernel *kernel = job->kernel;
    job->mc = even_block(job->m, kernel->mc, kernel->mr);
    job->kc = even_block(job->k, kernel->kc, 8);
    job->a_in_place = !job->a_by_rows && job->n <= IN_PLACE_COLS && job->a.dtype == TN_DTYPE_F32;
    job->b_in_place = job->m <= IN_PLACE_ROWS && job->b.dtype == TN_DTYPE_F32 && job->b.col_stride == 1 &&
                      job->b.row_stride % ALIASED != 0;
    int64_t height = job->a_in_place || job->a_by_rows ? 0 : job->mc / kernel->mr * kernel->panel_a;
    job->by_strips = job->n >= MIN_TILES * STRIP_PANELS * kernel->nr;
    if (job->by_strips) {
        job->nc = job->n;
        job->packed_depth = job->kc;
    } else {
        /* The threads wait for each other once for each packed block, so several kc are packed when they are small. */
        job->nc = even_block(job->n, kernel->nc, kernel->nr);
        int64_t most = PACKED_FLOATS / ((height + job->nc) * job->kc), steps = (job->k + job->kc - 1) / job->kc;
        job->packed_depth = even_block(steps, most > 1 ? most : 1, 1) * job->kc;
    }
    return height * job->packed_depth;
}

static void gemm_by_blocks(product *job) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t size_a = choose_blocks(job);
    int64_t width = job->by_strips ? STRIP_PANELS * kernel->nr : job->nc;
    job->packed_a = scratch_floats(size_a + width * job->packed_depth);
    if (job->packed_a) {
        job->packed_b = job->packed_a + size_a;
        run(job, run_blocks);
        return;
    }
    /* One tile at a time gives the same bits, since kc is the same. */
    float panels[MAX_KC * (MAX_PANEL + MAX_NR)];
    job->by_strips = false;
    job->mc = kernel->mr;
    job->nc = kernel->nr;
    job->packed_depth = job->kc;
    job->packed_a = panels;
    job->packed_b = panels + MAX_KC * MAX_PANEL;
    job->threads = 1;
    run(job, run_blocks);
}

static void put(const product *job, int64_t i, int64_t j, float value) {
    float *c = job->c.data + i * job->c.row_stride + j * job->c.col_stride;
    *c = job->beta == 0.0f ? job->alpha * value : job->alpha * value + job->beta * *c;
}

/* B's columns are contiguous over k: dot products of the few rows with each, by pieces of k that keep the few rows in
 * the first-level cache. */
static void run_dots(product *job) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t depth = even_block(job->k, DOT_DEPTH, 16);
    float sums[DOT_COLS * MAX_GROUP];
    for (int64_t j; (j = take(&job->next_task) * DOT_COLS) < job->n;) {
        int64_t cols = smaller(job->n - j, DOT_COLS);
        for (int64_t i = 0; i < job->m; i += kernel->group) {
            int64_t rows = smaller(job->m - i, kernel->group);
            for (int64_t q = 0; q < rows * cols; q++)
                sums[q] = 0.0f;
            for (int64_t p = 0; p < job->k; p += depth)
                kernel->dots(sums, job->few + i * job->few_stride + p, job->few_stride, part(job->b, p, j).data,
                             job->b.dtype, job->b.col_stride, rows, cols, smaller(job->k - p, depth));
            for (int64_t q = 0; q < cols; q++) {
                for (int64_t r = 0; r < rows; r++)
                    put(job, i + r, j + q, sums[q * rows + r]);
            }
        }
    }
}

/* One strip of columns of B whose rows are contiguous: acc += a[:, p] b[p, :] over p, some rows of B at a time. */
static void add_up_strip(product *job, int64_t col, int64_t cols, int64_t stride) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t side_by_side = job->m < 4 ? 4 : 8;
    float acc[STRIP], coef[COEF_DEPTH * TN_GEMM_FEW];
    for (int64_t i = 0; i < job->m * stride; i++)
        acc[i] = 0.0f;
    for (int64_t p = 0; p < job->k; p += COEF_DEPTH) {
        int64_t depth = smaller(job->k - p, COEF_DEPTH);
        kernel->widen(coef, TN_GEMM_FEW, transposed(part(job->a, 0, p)), depth, job->m, TN_GEMM_FEW);
        for (int64_t q = 0; q < depth; q += side_by_side) {
            const void *rows_of_b = part(job->b, p + q, col).data;
            for (int64_t i = 0; i < job->m; i += kernel->group)
                kernel->axpys(acc + i * stride, stride, coef + q * TN_GEMM_FEW + i, rows_of_b, job->b.dtype,
                              job->b.row_stride, smaller(job->m - i, kernel->group), cols, smaller(depth - q, side_by_side));
        }
    }
    bool by_rows = job->c.col_stride == 1;
    int64_t outer = by_rows ? job->m : cols, inner = by_rows ? cols : job->m;
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < inner; i++) {
            int64_t row = by_rows ? o : i, j = by_rows ? i : o;
            put(job, row, col + j, acc[row * stride + j]);
        }
    }
}

static void run_sums(product *job) {
    int64_t unit = job->kernel->nr, units = (job->n + unit - 1) / unit;
    int64_t strip = STRIP / job->m / unit * unit, index = team_index(job), team = team_size(job);
    int64_t from = units * index / team * unit;
    int64_t to = smaller(units * (index + 1) / team * unit, job->n);
    for (; from < to; from += strip)
        add_up_strip(job, from, smaller(to - from, strip), strip);
}

/* C^T = B^T A^T takes B's columns as they are, as the rows of a tile, where A B would transpose all of B into panels. The
 * price is to transpose the tiles of C, and A, which are smaller: few rows against a depth of many. */
static bool is_better_transposed(const product *job) {
    const tn_gemm_kernel *kernel = job->kernel;
    return job->m <= IN_PLACE_COLS && job->k >= 2 * job->m && job->n > job->m && job->b.row_stride == 1 &&
           8 * round_up(job->m, kernel->nr) <= 9 * round_up(job->m, kernel->mr); /* tiles are not padded much more */
}

/* B's rows fit in the caches and several rows of C share each: no need to read them one after another. */
static bool fits_in_tiles(const product *job) {
    return job->m > 4 && job->b.col_stride == 1 && job->b.dtype == TN_DTYPE_F32 && job->k * job->n <= CACHED_FLOATS;
}

/* False when this is no product of few rows after all, or there is no memory to treat it as one. */
static bool gemm_few_rows(product *job) {
    if (job->b.row_stride != 1) {
        if (job->m > TN_GEMM_FEW)
            return false;
        run(job, run_sums);
        return true;
    }
    job->few = job->a.data;
    job->few_stride = job->a.row_stride;
    if (job->a.dtype != TN_DTYPE_F32 || job->a.col_stride != 1) {
        job->few_stride = round_up(job->k, MAX_PANEL);
        float *copy = job->k > MAX_WIDENED ? NULL : scratch_floats(job->m * job->few_stride);
        if (!copy)
            return false;
        job->kernel->widen(copy, job->few_stride, job->a, job->m, job->k, job->few_stride);
        job->few = copy;
    }
    run(job, run_dots);
    return true;
}

static void scale_only(const product *job) {
    for (int64_t i = 0; i < job->m; i++) {
        for (int64_t j = 0; j < job->n; j++)
            put(job, i, j, 0.0f);
    }
}

static void transpose_product(product *job) {
    tn_operand a = job->a;
    int64_t m = job->m;
    job->a = transposed(job->b);
    job->b = transposed(a);
    job->m = job->n;
    job->n = m;
    job->c = (matrix){job->c.data, job->c.col_stride, job->c.row_stride};
}

void tn_gemm_run(const tn_gemm_kernel *kernel, bool parallel, float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha,
                 float beta, int64_t m, int64_t n, int64_t k) {
    if (m <= 0 || n <= 0)
        return;
    product job = {.kernel = kernel, .c = {c, ldc, 1}, .a = a, .b = b, .alpha = alpha, .beta = beta, .m = m, .n = n, .k = k};
    if (k <= 0) {
        scale_only(&job);
        return;
    }
    if (tn_gemm_low_rank(kernel, parallel, c, ldc, a, b, alpha, beta, m, n, k))
        return;
    job.threads = tn_gemm_threads(parallel, m, n, k);
    if (smaller(m, n) <= DOT_ROWS) {
        if (n < m)
            transpose_product(&job);
        if (!fits_in_tiles(&job)) {
            if (gemm_few_rows(&job))
                return;
            if (n < m)
                transpose_product(&job);
        }
    } else if (is_better_transposed(&job)) {
        transpose_product(&job);
        job.a_by_rows = job.a.dtype != TN_DTYPE_F32 || job.a.row_stride % ALIASED == 0;
    }
    gemm_by_blocks(&job);
}
