/* What a processor with AVX2 can do, for the benchmark of mixtures: sums of Gaussians
   in three dimensions, written by hand for its vector units,

       out_0i = sum_j b_j e_ij,   out_ki = sum_j b_j e_ij (x_ki - y_kj),   k = 1, 2, 3,

   with e_ij = 2^-|x_i - y_j|^2. Eight columns j at a time; nothing is stored but the sums.
   x is (3, n), y is (3, m), out is (4, n); m is a multiple of eight, filled up with weights
   of zero. Compiled by benchmarks/mixtures.py with -O3 -march=native -fopenmp. */
#include <immintrin.h>

enum { BLOCK = 1024 }; /* columns of which the sums are kept in single precision */

/* 2^t for t <= 0, zero below 2^-126: minimax polynomial of relative error 7.5e-8 */
static inline __m256 exp2_of(__m256 t) {
    __m256 is_zero = _mm256_cmp_ps(t, _mm256_set1_ps(-126.0f), _CMP_LT_OQ);
    __m256 whole = _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 f = _mm256_sub_ps(t, whole);
    __m256 p = _mm256_set1_ps(1.327647263195087605e-3f);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.67554134312132739e-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.550713271855644202e-2f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.402211972371071963e-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.931469670650352143e-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.000000071654714145f));
    __m256i shift = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
    p = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), shift));
    return _mm256_andnot_ps(is_zero, p);
}

static inline float total(__m256 v) {
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    h = _mm_add_ss(h, _mm_shuffle_ps(h, h, 1));
    return _mm_cvtss_f32(h);
}

void gauss_rows(long n, long m, const float *x, const float *y, const float *b, float *out) {
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) {
        __m256 x0 = _mm256_set1_ps(x[i]);
        __m256 x1 = _mm256_set1_ps(x[n + i]);
        __m256 x2 = _mm256_set1_ps(x[2 * n + i]);
        double sums[4] = {0, 0, 0, 0};
        for (long start = 0; start < m; start += BLOCK) {
            long stop = start + BLOCK < m ? start + BLOCK : m;
            __m256 u = _mm256_setzero_ps(), g0 = u, g1 = u, g2 = u;
            for (long j = start; j < stop; j += 8) {
                __m256 d0 = _mm256_sub_ps(x0, _mm256_loadu_ps(y + j));
                __m256 d1 = _mm256_sub_ps(x1, _mm256_loadu_ps(y + m + j));
                __m256 d2 = _mm256_sub_ps(x2, _mm256_loadu_ps(y + 2 * m + j));
                __m256 t = _mm256_mul_ps(d0, d0);
                t = _mm256_fmadd_ps(d1, d1, t);
                t = _mm256_fmadd_ps(d2, d2, t);
                t = _mm256_sub_ps(_mm256_setzero_ps(), t);
                __m256 k = _mm256_mul_ps(exp2_of(t), _mm256_loadu_ps(b + j));
                u = _mm256_add_ps(u, k);
                g0 = _mm256_fmadd_ps(k, d0, g0);
                g1 = _mm256_fmadd_ps(k, d1, g1);
                g2 = _mm256_fmadd_ps(k, d2, g2);
            }
            sums[0] += total(u);
            sums[1] += total(g0);
            sums[2] += total(g1);
            sums[3] += total(g2);
        }
        for (int c = 0; c < 4; c++) out[c * n + i] = (float)sums[c];
    }
}
