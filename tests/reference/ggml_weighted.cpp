#include "ggml.h"
#include <cstdio>
#include <cstdint>
#include <cmath>
#include <vector>
static uint64_t st;
static float u(){ st = st*6364136223846793005ull+1442695040888963407ull; int32_t v=(int32_t)(st>>40); return (float)(v-8388608)/8388608.0f; }
int main(){
  const int R=8,C=512; std::vector<float> x(R*C), w(C);
  st=23;
  for(int r=0;r<R;r++) for(int c=0;c<C;c++){ float a=u(),v=a; switch(r){
    case 1: v=a*a*a; break; case 2: v=fabsf(a); break; case 3: v=0; break; case 4: v=0.25f; break;
    case 5: v= c%97==5 ? a*50.0f : a; break; case 6: v=-fabsf(a)*0.001f; break; case 7: v=floorf(a*8.0f)/8.0f; break; }
    x[r*C+c]=v; }
  for(int c=0;c<C;c++){ float a=u(); w[c]= (c/32)%8==3 ? 0.0f : a*a+0.01f; }
  enum ggml_type T[]={GGML_TYPE_Q4_0,GGML_TYPE_Q4_1,GGML_TYPE_Q5_0,GGML_TYPE_Q5_1,GGML_TYPE_Q8_0,GGML_TYPE_Q4_K,GGML_TYPE_Q5_K,GGML_TYPE_Q6_K};
  FILE*f=fopen("ggml-weighted.bin","wb");
  for(auto t:T) for(int k=0;k<2;k++){ size_t rs=ggml_row_size(t,C); std::vector<uint8_t> o(rs*R); ggml_quantize_chunk(t,x.data(),o.data(),0,R,C,k?w.data():nullptr); fwrite(o.data(),1,o.size(),f);}
  fclose(f); return 0; }
