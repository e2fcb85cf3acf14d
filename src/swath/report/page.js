document.querySelectorAll('table.sort').forEach(t=>{t.querySelectorAll('th').forEach((h,i)=>h.addEventListener('click',()=>{
const way=h.dataset.way==='-1'?1:-1;t.querySelectorAll('th').forEach(o=>delete o.dataset.way);h.dataset.way=way;
const key=r=>{const c=r.cells[i];const v=c.dataset.v??c.textContent.trim();const n=parseFloat(v);return isNaN(n)?v:n};
const body=t.tBodies[0];[...body.rows].sort((a,b)=>{const x=key(a),y=key(b);
return (typeof x==='number'&&typeof y==='number'?x-y:String(x).localeCompare(String(y)))*way}).forEach(r=>body.append(r))}))});
document.querySelectorAll('.filters').forEach(f=>{const rows=document.querySelectorAll('[data-filter="'+f.dataset.for+'"]');
f.addEventListener('input',()=>{const want=[...f.querySelectorAll('select,input')].map(e=>[e.name,e.value.toLowerCase()]);
rows.forEach(r=>{r.hidden=!want.every(([k,v])=>!v||(r.dataset[k]??'').toLowerCase().split('|').some(x=>x===v||
(k==='text'&&x.includes(v))))})})});
