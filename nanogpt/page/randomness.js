// The random numbers of sampling, as nanogpt/randomness.py draws them with numpy: Philox 4x64, 10 rounds (Salmon et
// al. 2011).

const WORD = (1n << 64n) - 1n;
const [MULTIPLIER_0, MULTIPLIER_1] = [0xd2e7470ee14c6c93n, 0xca5a826395121157n];
const [BUMP_0, BUMP_1] = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn];
const SAMPLING = 0x2e86f931410e6352n; // of the stream "sampling": the beginning of its SHA-256

/** Four random 64-bit numbers: a function of a counter of four words and a key of two. */
function philox([a, b, c, d], [key0, key1]) {
  for (let round = 0; round < 10; round++) {
    const [first, second] = [a * MULTIPLIER_0, c * MULTIPLIER_1];
    [a, b, c, d] = [(second >> 64n) ^ b ^ key0, second & WORD, (first >> 64n) ^ d ^ key1, first & WORD];
    [key0, key1] = [(key0 + BUMP_0) & WORD, (key1 + BUMP_1) & WORD];
  }
  return [a, b, c, d];
}

/** The number in [0, 1) that decides token `n` of the first sample of a seed; it has 24 random bits. */
export function uniform(seed, n) {
  const counter = BigInt(1 + Math.floor(n / 4)); // numpy counts before it draws
  const words = philox([counter, 0n, 0n, 0n], [BigInt(seed), SAMPLING]);
  return Number(words[n % 4] >> 40n) * 2 ** -24;
}
